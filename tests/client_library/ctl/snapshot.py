"""Compare output with files. ``OJS_UPDATE_SNAPSHOTS=1`` writes them."""

from __future__ import annotations

import os
import re
from pathlib import Path

WIDTHS = (80, 160)
COMMANDS = {
    "job-ls": "job ls --queue seed.mail",
    "job-ls-wide": "job ls --queue seed.reports -o wide",
    "job-get": "job get {dead}",
    "queue-ls": "queue ls",
    "queue-get": "queue get seed.reports",
    "queue-limit": "queue limit seed.reports",
    "dead-ls": "dead ls --queue seed.mail",
    "error-ls": "error ls",
    "worker-ls": "worker ls",
    "worker-get": "worker get seed-worker",
    "cron-ls": "cron ls",
    "cron-get": "cron get seed-report",
    "cron-history": "cron history seed-report",
    "workflow-ls": "workflow ls",
    "workflow-get": "workflow get {workflow}",
    "limit-ls": "limit ls",
    "limit-get": "limit get tenant:seed",
    "pool-ls": "pool ls",
    "pool-get": "pool get seed-shop",
    "tenant-ls": "tenant ls",
    "tenant-get": "tenant get seed-acme",
    "tenant-limit": "tenant limit seed-acme",
    "tenant-weight": "tenant weight seed-acme",
    "cron-backfill": "cron backfill seed-report --from 2020-01-01 --to 2022-01-02 --dry-run",
    "webhook-ls": "webhook ls",
    "webhook-get": "webhook get {subscription}",
    "schema-ls": "schema ls",
    "schema-get": "schema get seed.invoice",
    "job-cancel-dry-run": "job cancel --queue seed.mail --type email.* --dry-run",
    "bulk-ls": "bulk ls",
    "stats": "stats",
    "top": "top --once",
}
"""Command lines by the names of their files. Ids are those of ``seed``."""
FOLDER = Path(__file__).parent / "snapshots"
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_SUBSCRIPTION = re.compile(r"sub_[0-9a-f-]{36}")
_TOP = re.compile(r"^ojsctl top .*$", re.MULTILINE)
_UPTIME = re.compile(r"^Uptime .*$", re.MULTILINE)
_SHOWN_ID = "xxxxxxxx-xxxx-7xxx-xxxx-xxxxxxxxxxxx"
_MOMENT = re.compile(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d")
_AGE = r"(?:\d+(?:\.\d+)?ms|\d+\.\d+s|\d+s|\d+m\d\ds|\d+m|\d+h\d\dm|\d+d\d\dh|\d+d)"
_AGO = re.compile(rf"{_AGE}(?= (?:ago|on average|of this process))")
_RATE = re.compile(r"[\d.]+(?= per minute|/min )")
_RATE_COLUMN = re.compile(r"( +)[\d.]+(?= +~ +~$)", re.MULTILINE)
"""Rates are per minute of the server's age, which differs from run to run."""
_RIGHT = re.compile(rf"( +){_AGE}(?=\s|$)", re.MULTILINE)


def normal(text: str) -> str:
    """Replace what differs from run to run: ids, times and ages, but not the widths."""
    text = _SUBSCRIPTION.sub(f"sub_{_SHOWN_ID}", text)
    text = _ID.sub(_SHOWN_ID, text)
    text = _TOP.sub("ojsctl top", _UPTIME.sub("Uptime", text))
    text = _MOMENT.sub("2026-01-01 00:00:00", text)
    text = _AGO.sub("~", text)
    text = _RATE.sub("~", text)
    text = _RIGHT.sub(lambda match: "~".rjust(len(match[0])), text)
    return _RATE_COLUMN.sub(lambda match: "~".rjust(len(match[0])), text)


def check(name: str, text: str) -> None:
    """Compare a text with its file."""
    file = FOLDER / f"{name}.txt"
    shown = normal(text)
    if os.environ.get("OJS_UPDATE_SNAPSHOTS"):
        file.write_text(shown)
    assert shown == file.read_text(), f"if this is right: OJS_UPDATE_SNAPSHOTS=1 ({file})"
