"""A worker reports the memory of its process."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from ojs_client.worker.memory import resident_bytes

_MIB = 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc/self/statm")
def test_the_resident_memory_grows_with_what_is_used() -> None:
    before = resident_bytes()
    assert before is not None
    assert before > _MIB
    with mmap.mmap(-1, 64 * _MIB) as used:
        for start in range(0, len(used), mmap.PAGESIZE):
            used[start] = 1
        during = resident_bytes()
    assert during is not None
    assert during - before > 32 * _MIB


@pytest.mark.parametrize("text", ["", "1", "1 x 3"])
def test_a_system_without_the_file_reports_nothing(tmp_path: Path, text: str) -> None:
    assert resident_bytes(tmp_path / "none") is None
    (tmp_path / "statm").write_text(text)
    assert resident_bytes(tmp_path / "statm") is None
