"""Logs: one JSON object per line (or text for people), on stderr, without secrets.

Standard logging with our own formatter: a logging library would be a dependency for a dozen fields.
Each item of ``extra``, such as ``request_id``, becomes a field.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback
from collections.abc import Iterable
from typing import Any, Literal, TextIO

import orjson

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SHORTEST_SECRET = 4  # masking a one-letter password would make every line unreadable


class _Masking(logging.Formatter):
    """Lines in which secrets are replaced by ``***``.

    No code logs a secret; this masks those in exceptions, for example in a quoted URL.
    """

    def __init__(self, process: str, secrets: Iterable[str]) -> None:
        super().__init__()
        self._process = process
        self._secrets: list[str] = []
        self.mask(secrets)

    def mask(self, secrets: Iterable[str]) -> None:
        """Mask these secrets too from now on. Thread-safe."""
        forms = set(self._secrets)
        for secret in secrets:
            if len(secret) >= _SHORTEST_SECRET:
                # As is, and as it looks inside a JSON text.
                forms |= {secret, orjson.dumps(secret).decode()[1:-1]}
        # Longest first: one secret may contain another.
        self._secrets = sorted(forms, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        line = self.line(record)
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line

    def line(self, record: logging.LogRecord) -> str:
        """Return the record as one line, before secrets are masked."""
        raise NotImplementedError


class JsonFormatter(_Masking):
    """``{"ts", "level", "logger", "msg", "process", "pid", ...extra, "exc"}`` on one line."""

    def line(self, record: logging.LogRecord) -> str:
        """Return the record as one line, before secrets are masked."""
        fields: dict[str, Any] = {
            "ts": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
            "process": self._process,
            "pid": record.process,
            **_extra(record),
        }
        if record.exc_info:
            fields["exc"] = "".join(traceback.format_exception(*record.exc_info))
        return orjson.dumps(fields, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()


_has_an_end = re.compile(r"[^\s,=()\"]*").fullmatch


def _shown(value: object) -> str:
    """Return a value of the text form, in quotes where it could be taken for more than one."""
    if isinstance(value, str) and not _has_an_end(value):
        return orjson.dumps(value, default=repr).decode()
    return str(value)


class TextFormatter(_Masking):
    """``12:00:00.123 INFO  api-0 message (field=value)`` for a terminal."""

    def line(self, record: logging.LogRecord) -> str:
        """Return the record as one line, before secrets are masked."""
        extra = _extra(record)
        shown = ", ".join(f"{name}={_shown(value)}" for name, value in extra.items())
        tail = f" ({shown})" if extra else ""
        clock = _timestamp(record.created)[11:-1]
        text = f"{clock} {record.levelname:<7} {self._process} {record.getMessage()}{tail}"
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return text


_later_secrets: set[str] = set()
"""Secrets that were read after the configuration, such as those of the key file."""


def mask_secrets(secrets: Iterable[str]) -> None:
    """Mask these secrets in every line from now on, also after ``configure_logging``."""
    _later_secrets.update(secrets)
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, _Masking):
            handler.formatter.mask(_later_secrets)


def configure_logging(
    level: str,
    form: Literal["json", "text"],
    *,
    process: str,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Send every logger's lines to stderr in this form; a second call replaces the first.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
        process: name of this process, such as ``api-0``.
        secrets: texts to mask.
        stream: for tests; None is stderr.
    """
    formatter: logging.Formatter = (JsonFormatter if form == "json" else TextFormatter)(
        process, {*secrets, *_later_secrets}
    )
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    # Whatever the level: the audit's lines are its full record.
    logging.getLogger("ojs.audit").setLevel(logging.INFO)
    # Libraries log per connection at INFO and DEBUG, which a job server does not need.
    for noisy in ("hypercorn.error", "quart", "redis"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    logging.captureWarnings(True)


def _timestamp(created: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))
    return f"{whole}.{int(created % 1 * 1000):03d}Z"


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}
