"""The log lines of ``ojs-worker``, as text for people or as JSON for programs."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final

_STANDARD: Final = frozenset(
    (*vars(logging.LogRecord("", 0, "", 0, "", None, None)), "message", "asctime", "taskName")
)


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object.

    It has ``ts``, ``level``, ``logger``, ``msg``, ``process``, ``pid``, the fields of ``extra``,
    and ``exc`` with a traceback.

    Args:
        process: the name of this process.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, Any] = {
            "ts": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
            "process": self._process,
            "pid": record.process,
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }
        if record.exc_info:
            fields["exc"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=repr, ensure_ascii=False)


def configure(level: str, form: str, process: str) -> None:
    """Log to stderr, until the application configures the root logger again.

    Args:
        level: the minimum level.
        form: ``text`` or ``json``.
        process: the name of this process.
    """
    text = f"%(asctime)s %(levelname)s {process} %(message)s"
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(process) if form == "json" else logging.Formatter(text))
    logging.basicConfig(level=level, handlers=[handler])
    if level != "DEBUG":  # it logs every request at INFO
        logging.getLogger("httpx2").setLevel(logging.WARNING)
