"""The tables of the outbox on PostgreSQL, as SQL and as a migration."""

from __future__ import annotations

from typing import Final

_TABLES: Final = (
    """\
CREATE TABLE ojs_outbox (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id text NOT NULL,
    queue text NOT NULL,
    job text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    error text
)""",
    "CREATE INDEX ojs_outbox_waiting ON ojs_outbox (position) WHERE error IS NULL",
    """\
CREATE TABLE ojs_once (
    job_id text PRIMARY KEY,
    done_at timestamptz NOT NULL DEFAULT now()
)""",
    "CREATE INDEX ojs_once_done_at ON ojs_once (done_at)",
)

SCHEMA: Final = "".join(f"{statement};\n" for statement in _TABLES)
"""The SQL that creates the tables. ``position`` is the order of insertion, ``job`` the JSON of the
request, and ``error`` the reason why the server refused it."""
REMOVAL: Final = "DROP TABLE ojs_outbox, ojs_once;\n"

_DJANGO: Final = '''\
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = []

    operations = [
        migrations.RunSQL(
            """{create}""",
            "{remove}",
        ),
    ]
'''
_ALEMBIC: Final = '''\
from alembic import op


def upgrade() -> None:
    op.execute("""{create}""")


def downgrade() -> None:
    op.execute("{remove}")
'''
FORMS: Final = {"sql": "{create}", "django": _DJANGO, "alembic": _ALEMBIC}


def schema_as(form: str) -> str:
    """Return the SQL, or a migration of Django or Alembic, as ``FORMS`` names them."""
    return FORMS[form].format(create=SCHEMA, remove=REMOVAL.strip())
