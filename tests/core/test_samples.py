"""The job samples of ojs-json-schema, sent as enqueue requests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.jobs.envelope import parse_job

_FOLDER = os.environ.get("OJS_SCHEMA_SAMPLES")

# An enqueue request is not a stored envelope: the server gives id, state and attempt, and the wire
# contract wants what a client sends there to be ignored, where the schema of the envelope refuses.
_IGNORED = {
    "01-missing-specversion": "the version is that of the server",
    "02-missing-id": "the server gives ids",
    "09-invalid-state": "system field, ignored",
    "11-negative-attempt": "system field, ignored",
    "16-error-missing-type": "system field, ignored",
    # 28 files of the conformance suites and the openapi document use hyphens in types.
    "22-type-with-hyphens": "the hyphen is allowed in types",
}


def _samples(kind: str) -> list[object]:
    if _FOLDER is None:
        reason = "set OJS_SCHEMA_SAMPLES to the samples folder of a checkout of ojs-json-schema"
        return [pytest.param(Path("-"), marks=pytest.mark.skip(reason=reason), id=kind)]
    return [pytest.param(path, id=path.stem) for path in sorted(Path(_FOLDER, kind).glob("*.json"))]


@pytest.mark.parametrize("path", _samples("valid"))
def test_a_valid_sample_is_accepted(path: Path) -> None:
    parse_job(path.read_bytes())


@pytest.mark.parametrize("path", _samples("invalid"))
def test_an_invalid_sample_is_refused(path: Path) -> None:
    if path.stem in _IGNORED:
        parse_job(path.read_bytes())
        return
    with pytest.raises(OJSError) as caught:
        parse_job(path.read_bytes())
    assert caught.value.field
