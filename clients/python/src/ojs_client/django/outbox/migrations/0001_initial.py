"""Create the tables."""

from collections.abc import Sequence
from typing import Any, ClassVar

from django.db import migrations

from ojs_client.outbox.schema import REMOVAL, SCHEMA


def _execute(sql: str) -> Any:
    def execute(apps: Any, schema_editor: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":  # the project may have others, too
            schema_editor.execute(sql)

    return execute


class Migration(migrations.Migration):
    """The first migration."""

    operations: ClassVar[Sequence[Any]] = (
        migrations.RunPython(_execute(SCHEMA), _execute(REMOVAL)),
    )
