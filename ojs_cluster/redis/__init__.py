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
from ojs_cluster.redis.settings import Address, ClientSettings

__all__ = [
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
    "open_client",
]
