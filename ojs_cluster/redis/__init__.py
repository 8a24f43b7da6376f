"""A Redis client for trio: one multiplexed connection per node, standalone or cluster."""

from ojs_cluster.redis.client import Client, open_client
from ojs_cluster.redis.connection import Arg
from ojs_cluster.redis.errors import (
    AuthenticationFailed,
    ConnectFailed,
    NoSuchDatabase,
    RedisReplyError,
    ReplyTooLarge,
)
from ojs_cluster.redis.reply_waiters import Reply
from ojs_cluster.redis.script import Script
from ojs_cluster.redis.settings import Address, ClientSettings, TlsSettings
from ojs_cluster.redis.topology import SLOTS, SlotRange, Topology

__all__ = [
    "SLOTS",
    "Address",
    "Arg",
    "AuthenticationFailed",
    "Client",
    "ClientSettings",
    "ConnectFailed",
    "NoSuchDatabase",
    "RedisReplyError",
    "Reply",
    "ReplyTooLarge",
    "Script",
    "SlotRange",
    "TlsSettings",
    "Topology",
    "open_client",
]
