"""Errors of ACL users that lack a rule, with the ACL SETUSER command that adds it."""

from __future__ import annotations

import re

from ojs_cluster.redis.errors import RedisReplyError

KEYS_RULE = "~ojs:*"
"""The ACL rule for all keys of the server (docs/operations.md, The Redis user)."""
CHANNELS_RULE = "&ojs:*"
"""The ACL rule for all channels of the server."""

_COMMAND = re.compile(r"run the '([^']+)' command")
# Texts of ACL errors inside scripts; the first one is that of Redis 7.2 and later.
_IN_SCRIPT = ("ACL failure in script", "The user executing the script")


class AclDenied(RedisReplyError):
    """The ACL user lacks a rule; the message names the rule and the command that adds it.

    Attributes:
        rule: the missing rule in the form of ACL SETUSER; empty if Redis does not name it.
    """

    def __init__(self, error: RedisReplyError, user: str, where: str, rule: str) -> None:
        super().__init__(f"{error.code} {error.message}")
        self.rule = rule
        self._text = describe_missing_rules(user, where, [rule] if rule else [], str(error))

    def __str__(self) -> str:
        return self._text


def describe_missing_rules(user: str, where: str, rules: list[str], reply: str = "") -> str:
    """Return one line that names the rules that the user lacks, and the command that adds them.

    Args:
        user: the ACL user.
        where: the server.
        rules: the missing rules in the form of ACL SETUSER; empty if Redis does not name them.
        reply: Redis's own error, which the line contains if ``rules`` is empty.
    """
    if not rules:
        return (
            f"Redis at {where} refuses user '{user}' a command ({reply}): compare its rules with "
            "docs/operations.md, The Redis user"
        )
    texts = {KEYS_RULE: "the keys ojs:*", CHANNELS_RULE: "the channels ojs:*"}
    names = ", ".join(texts.get(rule) or f"the command {rule[1:].upper()}" for rule in rules)
    return (
        f"Redis at {where} refuses user '{user}' {names}: run ACL SETUSER {user} {' '.join(rules)} "
        "there"
    )


def is_acl_error(error: RedisReplyError) -> bool:
    """Return whether an ACL refused a command, sent by the client or called by a script."""
    return error.code == "NOPERM" or any(text in str(error) for text in _IN_SCRIPT)


def explain_acl_error(error: RedisReplyError, user: str, where: str) -> RedisReplyError:
    """Return an ``AclDenied`` if an ACL caused ``error``, otherwise ``error`` itself."""
    if not is_acl_error(error) or isinstance(error, AclDenied):
        return error
    return AclDenied(error, user, where, missing_rule(str(error)))


def missing_rule(text: str, command: str = "") -> str:
    """Return the missing rule in the form of ACL SETUSER; empty if the error does not show it.

    Args:
        text: Redis's error.
        command: the refused command, for servers that do not name it.
    """
    match = _COMMAND.search(text)
    if match is not None:
        return f"+{match[1].lower()}"
    if "channel" in text:
        return CHANNELS_RULE
    if "key" in text:
        return KEYS_RULE
    return f"+{command.lower()}" if command else ""
