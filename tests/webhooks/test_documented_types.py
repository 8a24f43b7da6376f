"""The guide lists the event types that a webhook can get."""

from __future__ import annotations

import re
from pathlib import Path

from ojs_cluster.core.events import NAMES

GUIDE = Path(__file__).parents[2] / "docs/guide/webhooks.md"


def test_the_guide_lists_every_type_that_this_server_emits_and_no_other() -> None:
    table = GUIDE.read_text().partition("\n## Event types\n")[2].partition("\n\nThe server")[0]
    assert set(re.findall(r"`([a-z_.]+)`", table)) == NAMES
