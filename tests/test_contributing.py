"""The table of CONTRIBUTING names the files that a change needs: real changes follow its rows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
CLIENT: Final = "clients/python/src/ojs_client"
MAX_FILES: Final = 14
"""A field of a job touches at most this number of files of the product."""

Edits = Mapping[str, tuple[tuple[str, str], ...]]
"""For each file pairs of a text that occurs once, and the text that is put before it."""

OPTION: Final[Edits] = {
    "ojs_cluster/core/jobs/options.py": (
        ('        "tags",\n        "timeout",', '        "group_id",\n'),
        ("    tags: Raw = _ABSENT", "    group_id: Any = None\n"),
        ('"tags")\n"""Options with data', '"group_id", '),
        ("    return JobOptions(", "    _group_id(source, members)\n"),
        (
            "def _add_tags(",
            "def _group_id(source: _OptionSource, members: list[bytes]) -> None:\n"
            '    text, path = source.first("group_id", top_level=("group_id",))\n'
            "    if text is not None and not isinstance(text, str):\n"
            '        raise InvalidRequest("group_id must be a text", field=path)\n'
            "    if text is not None:\n"
            "        members.append(b'\"group_id\":' + msgspec.json.encode(text))\n\n\n",
        ),
    ),
    "ojs_cluster/http/shapes/job_requests.py": (
        ("    tags: list[Text] | None\n\n\nclass EnqueueBody", "    group_id: str | None\n"),
        ("    tags: list[Text] | None\n    timeout:", "    group_id: str | None\n"),
    ),
    "ojs_cluster/http/shapes/jobs.py": (("    tags: list[str]", "    group_id: str\n"),),
    "ojs_cluster/ui/pages/new_job.py": (
        ('"priority", "max_attempts", "scheduled_at"),\n)', '"group_id", '),
        (
            '        "tags": ", ".join(texts(members, "tags")),',
            '        "group_id": text(members, "group_id"),\n',
        ),
        (
            '    tags = words_of(given["tags"])',
            '    if given["group_id"]:\n        options["group_id"] = text_of(given["group_id"])\n',
        ),
    ),
    "ojs_cluster/ui/templates/new_job.html": (
        ('  <label for="new-tags">', '  <input name="group_id" value="{{ given.group_id }}">\n'),
    ),
    f"{CLIENT}/options.py": (
        ("    tags: Sequence[str]\n    meta:", "    group_id: str\n"),
        ('"rate_limit"):\n            if name in given', '"group_id", '),
    ),
    f"{CLIENT}/ctl/commands/job_enqueue.py": (
        (
            '@click.option("--tag", ',
            '@click.option("--group-id", metavar="ID", help="Its group.")\n',
        ),
        ("    tags: tuple[str, ...],\n", "    group_id: str | None,\n"),
        ('        "tags": list(tags) or None,', '        "group_id": group_id,\n'),
    ),
    f"{CLIENT}/ctl/commands/job.py": (
        ('    yield "Tags", ', '    yield "Group", found.get("group_id")\n'),
    ),
}
SEARCH: Final[Edits] = {
    "ojs_cluster/core/search_fields.py": (
        (
            '        "worker": SearchField(),',
            '        "group_id": SearchField(content="group_id"),\n',
        ),
    ),
}
HASH: Final[Edits] = {
    "ojs_cluster/store/include/base/fields.lua": (("    tenant = 'tn',", "    note = 'zz',\n"),),
    "ojs_cluster/store/ground/job_fields.py": (('TENANT: Final = b"tn"', 'NOTE: Final = b"zz"\n'),),
    "ojs_cluster/store/operators/archive/job_lines.py": (
        ('    f.WORKFLOW: "workflow_id",', '    f.NOTE: "note",\n'),
    ),
}
JOB: Final = """
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.raw_json import Raw, object_members
from ojs_client import new_job
from ojs_client.ctl.commands.job import fields_of
from ojs_client.ctl.commands.job_enqueue import enqueue
from ojs_client.testing.fake_jobs import FakeJob
from ojs_client.transport import encode
from ojs_cluster.http.shapes.jobs import Job
from ojs_cluster.ui.pages import job, new_job as form
from ojs_cluster.ui.redaction.redaction import Redaction
import trio

sent = new_job("t.a", group_id="g1").json()
stored = parse_job(encode(sent))
members = object_members(b"{%b}" % stored.body)
assert bytes(members["group_id"]) == b'"g1"' and stored.warnings == ()
for wrong in (b'{"options":{"group_id":7},', b'{"group_id":7,'):
    try:
        parse_job(wrong + b'"type":"t","args":[]}')
    except InvalidRequest as error:
        assert "group_id" in error.field
    else:
        raise AssertionError
assert FakeJob.from_request(sent, 0).json()["group_id"] == "g1"
assert dict(fields_of({"group_id": "g1"}))["Group"] == "g1"
assert "--group-id" in {name for option in enqueue.params for name in option.opts}
assert "group_id" in job._SETTINGS and "group_id" in Job.__annotations__
given = form._given({**members, "type": Raw(b'"t.a"'), "id": Raw(b'"1"')})
assert b'"group_id":"g1"' in form._body(given) and given["group_id"] == "g1"
hidden = trio.run(Redaction(frozenset({"options.group_id"})).members, members, "t.a")
assert bytes(hidden["group_id"]) == b'"hidden"'
"""
TERM: Final = """
from ojs_cluster.core.search import parse_search
from ojs_cluster.core.search_fields import STARTS
from ojs_cluster.ui.redaction.redaction import Redaction
from ojs_cluster.ui.redaction.searches import why_not_searched

class Searched:
    id = type = queue = "x"
    def members(self):
        return members

assert "group_id:" in STARTS
for term, is_found in (("g1", True), ("g*", True), ("g2", False)):
    assert parse_search(f"group_id:{term}", now_ms=0).admits(Searched()) is is_found
for entry, is_refused in (("options.group_id", True), ("group_id", True), ("meta.a", False)):
    redaction = Redaction(frozenset({entry}))
    assert bool(why_not_searched("group_id:g1", redaction)) is is_refused
"""
FIELD: Final = """
import re
from pathlib import Path
from ojs_cluster.store.ground import job_fields
from ojs_cluster.store.operators.archive import job_lines

lua = Path(job_fields.__file__).parents[1].joinpath("include/base/fields.lua").read_text()
assert job_fields.NOTE.decode() in dict(re.findall(r"(\\w+) = '(\\w+)'", lua)).values()
assert "note" in Path(job_lines.__file__).read_text()
"""


def named_files(row: str) -> set[str]:
    """Return the texts in backticks of a row of the table."""
    (line,) = re.findall(rf"^\| {re.escape(row)} \|(.*)\|$", CONTRIBUTING, re.MULTILINE)
    return set(re.findall(r"`([^`]+)`", line))


CONTRIBUTING: Final = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize(
    ("rows", "edits", "check"),
    [
        (("a job option", "a search field"), {**OPTION, **SEARCH}, JOB + TERM),
        (("a field of a job's hash",), HASH, FIELD),
    ],
    ids=["option that is searched", "field of the hash"],
)
def test_a_change_that_follows_the_table_is_complete(
    rows: tuple[str, ...], edits: Edits, check: str, tmp_path: Path
) -> None:
    named = set[str]().union(*map(named_files, rows))
    for folder in ("ojs_cluster", CLIENT):
        ignored = shutil.ignore_patterns("*.po", "vendor")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for path, pairs in edits.items():
        assert any(path.endswith(name) for name in named), f"no row names {path}"
        file = tmp_path / path
        text = file.read_text()
        for before, added in pairs:
            assert text.count(before) == 1, f"{before!r} in {path}"
            text = text.replace(before, added + before)
        file.write_text(text)
    assert len(edits) <= MAX_FILES
    done = subprocess.run(
        [sys.executable, "-c", check],
        env={
            **os.environ,
            "PYTHONPATH": ":".join(
                map(str, (tmp_path, tmp_path / "scheduler", tmp_path / "clients/python/src"))
            ),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
