"""The benchmarks run, and print their tables. What they measure is not judged here."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from loadtest.bench import batch, latency, memory


def table(out: str) -> dict[str, list[str]]:
    """The lines of all tables, by their first cell."""
    lines = [line.strip("| ").split("|") for line in out.splitlines() if line.startswith("|")]
    return {first.strip(): [cell.strip() for cell in rest] for first, *rest in lines}


def printed(
    main: Callable[[], None],
    options: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> dict[str, list[str]]:
    monkeypatch.setattr(sys, "argv", ["bench", *options.split()])
    main()
    return table(capsys.readouterr().out)


def test_a_job_takes_less_memory_with_the_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--jobs 500 --rounds 1 --per-round 16"
    found = printed(memory.main, options, monkeypatch, capsys)
    by_default, small = (found[f"hash-max-listpack-value {value}"] for value in ("64", "1024"))
    assert all(int(less) < int(more) for less, more in zip(small, by_default, strict=True))
    assert {str(size) for size in memory.SIZES} <= found.keys()


def test_batches_and_single_jobs_go_all_the_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(batch.main, "--jobs 400 --rounds 1", monkeypatch, capsys)
    assert {*batch.VERBS, "all three"} <= found.keys()


def test_an_open_loop_is_sent_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(latency.main, "--seconds 0.2 --rounds 1", monkeypatch, capsys)
    assert {"30%", "60%", "90%"} <= found.keys()
