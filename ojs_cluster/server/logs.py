"""Logs: one JSON object per line (or text for people), on stderr, without secrets.

Each item of ``extra``, such as ``request_id``, becomes a field. (Rejected: a logging library, which
would be one more dependency for a dozen fields.)
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterable
from typing import Any, Literal, TextIO

import orjson

from ojs_cluster.core.timestamps import format_ms

_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
}
"""Attributes of every log record; all others come from ``extra``."""
_MIN_SECRET_LENGTH = 4
"""Minimum length of a secret that is masked, in characters. A secret of one letter would mask this
letter in all words."""


class _MaskingFormatter(logging.Formatter):
    """A formatter that replaces secrets with ``***``.

    No code of the server logs a secret. But the message of an exception may contain one, for
    example in a URL.
    """

    def __init__(self, process: str, secrets: Iterable[str]) -> None:
        super().__init__()
        self._process = process
        self._secrets: list[str] = []
        self.mask(secrets)

    def mask(self, secrets: Iterable[str]) -> None:
        """Add secrets to mask. Thread-safe."""
        texts = set(self._secrets)
        for secret in secrets:
            if len(secret) >= _MIN_SECRET_LENGTH:
                escaped = orjson.dumps(secret).decode()[1:-1]
                texts |= {secret, escaped}
        # The longest text is replaced first, because a secret may contain another secret.
        self._secrets = sorted(texts, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        line = self.line(record)
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line

    def line(self, record: logging.LogRecord) -> str:
        """Return the record as one line, before secrets are masked."""
        raise NotImplementedError


class JsonFormatter(_MaskingFormatter):
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


_needs_no_quotes = re.compile(r"[^\s,=()\"]*").fullmatch


def _quoted_if_needed(value: object) -> str:
    """Return ``value`` for a text line, in quotes if it has characters that separate fields."""
    if isinstance(value, str) and not _needs_no_quotes(value):
        return orjson.dumps(value, default=repr).decode()
    return str(value)


class TextFormatter(_MaskingFormatter):
    """``12:00:00.123 INFO  api-0 message (field=value)`` for a terminal."""

    def line(self, record: logging.LogRecord) -> str:
        """Return the record as one line, before secrets are masked."""
        extra = _extra(record)
        fields = ", ".join(f"{name}={_quoted_if_needed(value)}" for name, value in extra.items())
        suffix = f" ({fields})" if extra else ""
        time_of_day = _timestamp(record.created)[11:-1]
        text = f"{time_of_day} {record.levelname:<7} {self._process} {record.getMessage()}{suffix}"
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return text


_later_secrets: set[str] = set()
"""Secrets of ``mask_secrets``, which are kept for the next ``configure_logging``."""


def mask_secrets(secrets: Iterable[str]) -> None:
    """Mask secrets that are not part of the settings, such as those of the file of API keys.

    They stay masked after a later ``configure_logging``.
    """
    _later_secrets.update(secrets)
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, _MaskingFormatter):
            handler.formatter.mask(_later_secrets)


def configure_logging(
    level: str,
    form: Literal["json", "text"],
    *,
    process: str,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Write the lines of all loggers to stderr; a second call replaces the first configuration.

    Args:
        level: minimum level: DEBUG, INFO, WARNING or ERROR.
        form: format of the lines.
        process: name of this process, such as ``api-0``.
        secrets: texts to mask.
        stream: stream to write to instead of stderr, for tests.
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
    # Audit entries are logged at any level, because Redis keeps only the newest ones.
    logging.getLogger("ojs.audit").setLevel(logging.INFO)
    # At INFO and DEBUG these libraries log each connection.
    for library in ("hypercorn.error", "quart", "redis"):
        logging.getLogger(library).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    logging.captureWarnings(True)


def _timestamp(created: float) -> str:
    return format_ms(int(created * 1000)).decode()


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD_ATTRIBUTES}
