"""What Redis says when an ACL user lacks a right, made into one line that says what to add."""

from __future__ import annotations

import re

from ojs_cluster.redis.errors import RedisReplyError

KEYS = "~ojs:*"
CHANNELS = "&ojs:*"
"""What a user needs besides commands (docs/operations.md, The Redis user)."""

_COMMAND = re.compile(r"run the '([^']+)' command")
# In scripts 7.2 and later say the first, earlier ones the second.
_IN_SCRIPT = ("ACL failure in script", "The user executing the script")


class MissingRight(RedisReplyError):
    """The ACL user may not do something; the text says what, and which rule to add.

    ``rule`` is that rule, as ACL SETUSER takes it; empty where Redis does not say enough.
    """

    def __init__(self, error: RedisReplyError, user: str, where: str, rule: str) -> None:
        super().__init__(f"{error.code} {error.message}")
        self.rule = rule
        self._line = line(user, where, [rule] if rule else [], str(error))

    def __str__(self) -> str:
        return self._line


def line(user: str, where: str, rules: list[str], said: str = "") -> str:
    """One line for the log: what ``user`` lacks at the server ``where``, and what to add.

    Args:
        rules: what is missing, as ACL SETUSER takes it.
        said: what Redis said, for where that tells no rule.
    """
    if not rules:
        return (
            f"Redis at {where} refuses user '{user}' a right ({said}): compare its rules with "
            "docs/operations.md, The Redis user"
        )
    what = {KEYS: "the keys ojs:*", CHANNELS: "the channels ojs:*"}
    names = ", ".join(what.get(rule) or f"the command {rule[1:].upper()}" for rule in rules)
    return (
        f"Redis at {where} refuses user '{user}' {names}: run ACL SETUSER {user} {' '.join(rules)} "
        "there"
    )


def is_about_rights(error: RedisReplyError) -> bool:
    """Whether a user lacks a right, alone or in a script."""
    return error.code == "NOPERM" or any(text in str(error) for text in _IN_SCRIPT)


def explained(error: RedisReplyError, user: str, where: str) -> RedisReplyError:
    """``error``, or what it means when it is about a right."""
    if not is_about_rights(error) or isinstance(error, MissingRight):
        return error
    return MissingRight(error, user, where, rule_of(str(error)))


def rule_of(text: str, command: str = "") -> str:
    """The rule that is missing, as ACL SETUSER takes it; '' where the text does not tell.

    Args:
        text: what Redis said.
        command: what was refused, for servers that do not name it.
    """
    found = _COMMAND.search(text)
    if found is not None:
        return f"+{found[1].lower()}"
    if "channel" in text:
        return CHANNELS
    if "key" in text:
        return KEYS
    return f"+{command.lower()}" if command else ""
