"""Unusable settings are refused, and the times of the election are consistent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_scheduler.settings import SchedulerSettings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("group", ""),
        ("lease_ttl_ms", 499),
        ("promote_batch", 0),
        ("reap_batch", 1001),
        ("shard_concurrency", 0),
        ("max_sleep_ms", 15_001),
        ("backoff_max_ms", 99),
    ],
)
def test_an_unusable_setting_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        SchedulerSettings(**{field: value})


@given(lease_ms=st.integers(500, 3_600_000))
def test_another_process_can_lead_within_one_lease_time(lease_ms: int) -> None:
    terms = SchedulerSettings(lease_ttl_ms=lease_ms).lease_times
    assert terms.key_ttl_s + terms.poll_s < lease_ms / 1000
    assert terms.renew_s * 3 == pytest.approx(terms.key_ttl_s)
    # Two renewals can fail before a leader has to stop.
    assert 2 * terms.renew_s < terms.work_s < terms.key_ttl_s
