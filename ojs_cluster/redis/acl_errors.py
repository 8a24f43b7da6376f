"""Errors of ACL users that lack a rule, with the ACL SETUSER command that adds it."""

from __future__ import annotations

import re

from ojs_cluster.redis.errors import RedisReplyError

KEYS = "~ojs:*"
CHANNELS = "&ojs:*"
"""The rules a user needs besides commands (docs/operations.md, The Redis user)."""

_COMMAND = re.compile(r"run the '([^']+)' command")
# Errors inside scripts: the first text is that of 7.2 and later.
_IN_SCRIPT = ("ACL failure in script", "The user executing the script")


class AclDenied(RedisReplyError):
    """The ACL user lacks a rule; the message names the rule and the command that adds it.

    Attributes:
        rule: the rule in the form of ACL SETUSER; empty when Redis does not name it.
    """

    def __init__(self, error: RedisReplyError, user: str, where: str, rule: str) -> None:
        super().__init__(f"{error.code} {error.message}")
        self.rule = rule
        self._text = describe_missing_rules(user, where, [rule] if rule else [], str(error))

    def __str__(self) -> str:
        return self._text


def describe_missing_rules(user: str, where: str, rules: list[str], reply: str = "") -> str:
    """Return one log line: which rules the user lacks, and the command that adds them.

    Args:
        user: the ACL user.
        where: the server.
        rules: the missing rules in the form of ACL SETUSER; empty when Redis does not name them.
        reply: Redis's own error, shown when there are no rules.
    """
    if not rules:
        return (
            f"Redis at {where} refuses user '{user}' a command ({reply}): compare its rules with "
            "docs/operations.md, The Redis user"
        )
    what = {KEYS: "the keys ojs:*", CHANNELS: "the channels ojs:*"}
    names = ", ".join(what.get(rule) or f"the command {rule[1:].upper()}" for rule in rules)
    return (
        f"Redis at {where} refuses user '{user}' {names}: run ACL SETUSER {user} {' '.join(rules)} "
        "there"
    )


def is_acl_error(error: RedisReplyError) -> bool:
    """Return whether an ACL refused a command, also inside a script."""
    return error.code == "NOPERM" or any(text in str(error) for text in _IN_SCRIPT)


def explain_acl_error(error: RedisReplyError, user: str, where: str) -> RedisReplyError:
    """Return an ``AclDenied`` when an ACL caused ``error``, otherwise ``error``."""
    if not is_acl_error(error) or isinstance(error, AclDenied):
        return error
    return AclDenied(error, user, where, missing_rule(str(error)))


def missing_rule(text: str, command: str = "") -> str:
    """Return the missing rule in the form of ACL SETUSER; empty when it cannot be told.

    Args:
        text: Redis's error.
        command: the refused command, for servers that do not name it.
    """
    found = _COMMAND.search(text)
    if found is not None:
        return f"+{found[1].lower()}"
    if "channel" in text:
        return CHANNELS
    if "key" in text:
        return KEYS
    return f"+{command.lower()}" if command else ""
