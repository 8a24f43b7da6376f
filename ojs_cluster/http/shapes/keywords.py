"""Add keywords of JSON Schema to a type, for the document only.

``msgspec`` does not check such keywords when it decodes a body. The handlers check the values, and
their errors name the field and the rule in the words of OJS.
"""

from __future__ import annotations

from typing import Any

import msgspec


def keywords(**values: Any) -> msgspec.Meta:
    """Return an annotation that adds keywords to the schema of a type.

    Args:
        values: keywords of JSON Schema, such as ``minimum`` or ``pattern``.
    """
    return msgspec.Meta(extra_json_schema=values)


def between(low: int, high: int) -> msgspec.Meta:
    """Return an annotation with the bounds of a number."""
    return keywords(minimum=low, maximum=high)
