"""The tenant that a job's meta names."""

from __future__ import annotations

import pytest

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.edit import parse_edit
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.payload_limits import DEFAULT_LIMITS

ANY = ('"a b"', '""', "5", "[]", "null", '"-a"')
"""Values of ``tenant_id`` that are not a tenant."""


@pytest.mark.parametrize("given", ANY)
def test_a_value_of_another_form_names_no_tenant(given: str) -> None:
    raw = f'{{"type":"t","args":[],"meta":{{"tenant_id":{given}}}}}'.encode()
    assert parse_job(raw).tenant == ""
    with pytest.raises(InvalidRequest, match="another one"):
        parse_job(raw, tenant="acme")


@pytest.mark.parametrize("given", ANY)
def test_a_stored_job_with_such_a_value_can_be_edited(given: str) -> None:
    stored = f'"args":[],"meta":{{"tenant_id":{given}}}'.encode()
    edit = parse_edit(b'{"meta":{"a":1}}', DEFAULT_LIMITS)
    assert edit.apply(stored, 0).envelope == b'"args":[],"meta":{"a":1}'
    edit = parse_edit(b'{"meta":{"tenant_id":"acme"}}', DEFAULT_LIMITS)
    with pytest.raises(InvalidRequest, match="cannot be changed"):
        edit.apply(stored, 0)
