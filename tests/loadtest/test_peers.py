"""The comparison with other libraries runs with those that are installed, and its tables replace
old ones. These tests do not judge the measurements.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from loadtest.bench._chart import draw_bars
from loadtest.peers import __main__ as peers
from loadtest.peers import report
from loadtest.peers.catalogue import PEERS, Peer
from tests.loadtest.test_bench import table

SVG = "{http://www.w3.org/2000/svg}"
OTHERS = [peer for peer in PEERS if not peer.is_ours and not peer.forks]


def arguments(*more: str) -> list[str]:
    return ["peers", "--installed", "--rounds", "1", "--jobs", "20", "--seconds", "0.5", *more]


def test_ours_alone_fills_the_tables_of_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    parts = ("--parts", "single", "batch", "latency", "memory", "imports", "flows")
    more = ("--only", "ours", "--sizes", "3", "--out", str(page))
    monkeypatch.setattr(sys, "argv", arguments(*parts, *more))

    peers.main()

    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "not obtainable: asynq" in capsys.readouterr().out
    assert "### Failed" not in text
    found = table(text)
    assert {"ojs-cluster", "chain of 3", "group of 3"} <= found.keys()
    assert {each.name for each in tmp_path.glob("*.svg")} == {
        "peers-cpu.svg",
        "peers-latency.svg",
        "peers-memory.svg",
    }


@pytest.mark.soak
@pytest.mark.parametrize("peer", OTHERS, ids=lambda peer: peer.name)
def test_an_installed_library_runs_jobs_options_and_workflows(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if peer.lack() or not peer.version():
        pytest.skip(f"{peer.title} is not installed; `make bench-peers` does it")
    more = ("--only", peer.name, "--sizes", "3", "--parts", "batch", "options", "flows")
    monkeypatch.setattr(sys, "argv", arguments(*more))

    peers.main()

    out = capsys.readouterr().out
    assert "### Failed" not in out
    assert peer.title in table(out)


def test_a_page_without_the_comments_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text")

    with pytest.raises(SystemExit, match="has no lines"):
        report.write(page, "tables")
    assert page.read_text() == "text"


@pytest.mark.parametrize("stacked", [True, False])
def test_bars_are_as_long_as_their_values_and_follow_the_theme(
    tmp_path: Path, stacked: bool
) -> None:
    file = tmp_path / "chart.svg"

    draw_bars(
        file, "a < b", {"x": {"one": 1, "two": 3}, "y": {"one": 2, "two": 0}}, stacked=stacked
    )

    root = ElementTree.parse(file).getroot()  # noqa: S314 - written by this test
    drawn = [each for each in root.iter(f"{SVG}rect") if each.get("width") != "12"]
    widths = [float(each.get("width", 0)) for each in drawn]
    assert [round(width / widths[0]) for width in widths] == [1, 3, 2, 0]
    texts = [each.text for each in root.iter(f"{SVG}text")]
    assert {"a < b", "x", "y", "one", "two"} <= set(texts)
    assert ("4" in texts) == stacked
    assert "prefers-color-scheme: dark" in file.read_text()
