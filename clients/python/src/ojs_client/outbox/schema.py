"""The tables of the outbox on PostgreSQL."""

from __future__ import annotations

from typing import Final

SCHEMA: Final = """\
CREATE TABLE ojs_outbox (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id text NOT NULL,
    queue text NOT NULL,
    job text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    error text,
    refused_at timestamptz
);
CREATE INDEX ojs_outbox_waiting ON ojs_outbox (position) WHERE refused_at IS NULL;
CREATE TABLE ojs_once (
    job_id text PRIMARY KEY,
    done_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ojs_once_done_at ON ojs_once (done_at);
"""
"""The SQL that creates the tables. ``position`` is the order of insertion, and ``job`` the JSON of
the request. ``attempts`` and ``error`` tell how often the server has not taken the job, and why."""
REMOVAL: Final = "DROP TABLE ojs_outbox, ojs_once;\n"
