"""The words that people know from other tools find the commands of ``ojsctl``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import click
import pytest

from ojs_client.ctl.app import cli
from tests.client_library.ctl.conftest import Ctl, Shared

QUEUE = ("--queue", "seed.mail")


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("jobs list --queue seed.mail -o name", "job ls --queue seed.mail -o name"),
        ("list jobs --queue seed.mail -o name", "job ls --queue seed.mail -o name"),
        ("get jobs --queue seed.mail -o name", "job ls --queue seed.mail -o name"),
        ("job get --queue seed.mail --all -o name", "job ls --queue seed.mail --all -o name"),
        ("jobs describe {dead} --json", "job get {dead} -o json"),
        ("show job {dead} --json", "job get {dead} -o json"),
        ("job get -o json {dead}", "job get {dead} -o json"),
        ("describe queue seed.mail -o name", "queue get seed.mail -o name"),
        ("get queues -o name", "queue ls -o name"),
        ("queues -o name", "queue ls -o name"),
        ("jobs --queue seed.mail -o name", "job ls --queue seed.mail -o name"),
        ("workers --json", "worker ls -o json"),
        ("jobs --help", "job --help"),
        ("dlq list --queue seed.mail -o name", "dead ls --queue seed.mail -o name"),
        ("dead-letters ls --queue seed.mail -o name", "dead ls --queue seed.mail -o name"),
        ("dlq show {dead} --json", "dead get {dead} -o json"),
        ("dlq purge --queue seed.mail --dry-run", "dead rm --queue seed.mail --dry-run"),
        ("errors show -o name", "error ls -o name"),
        ("get errors -o name", "error ls -o name"),
        ("workers get -o name", "worker ls -o name"),
        ("crons show seed-report --json", "cron get seed-report -o json"),
        ("show schema seed.invoice --json", "schema get seed.invoice -o json"),
        ("show stats --help", "stats --help"),
        ("get event -n 1 --queue seed.mail", "events -n 1 --queue seed.mail"),
        ("queue stats seed.mail -o name", "queue get seed.mail -o name"),
        ("queue clear seed.mail --dry-run", "queue purge seed.mail --dry-run"),
        ("limit clear --help", "limit rm --help"),
        ("logs -n 1 --queue seed.mail", "events -n 1 --queue seed.mail"),
        ("job logs {completed}", "job watch {completed}"),
        ("contexts list --json", "profile ls -o json"),
        ("help", "--help"),
        ("help job", "job --help"),
        ("help jobs list", "job ls --help"),
        ("job help enqueue", "job enqueue --help"),
        ("dlq help", "dead --help"),
        ("job get --help", "job get --help"),
        ("describe job --help", "job get --help"),
        ("version", "--version"),
        ("--json job ls --queue seed.mail", "job ls --queue seed.mail -o json"),
        ("job result {completed} --json", "job result {completed}"),
        ("events -n 1 --queue seed.mail --json", "events -n 1 --queue seed.mail -o jsonl"),
    ],
)
def test_other_words_do_the_same(ctl: Ctl, shared: Shared, words: str, command: str) -> None:
    given, expected = (text.format(**shared.seeded).split() for text in (words, command))
    shown, wanted = (ctl.run(*each).output.splitlines() for each in (given, expected))
    assert shown
    # The usage repeats the words of the command line.
    assert [line for line in shown if not line.startswith("Usage:")] == [
        line for line in wanted if not line.startswith("Usage:")
    ]


def test_a_change_may_have_another_name_too(ctl: Ctl) -> None:
    [job_id, other] = ctl.enqueue("q.words", 2)
    assert ctl.names("cancel", "job", job_id) == [job_id]
    assert ctl.names("jobs", "delete", job_id, "--yes") == [job_id]
    ctl.run("job", "get", job_id, code=3)
    assert ctl.names("queue", "unpause", "q.words") == ["q.words"]
    assert ctl.names("stop", "queue", "q.words") == ["q.words"]
    assert ctl.json("job", "get", other)["state"] == "available"


def test_an_unknown_word_is_refused_with_what_it_may_mean(ctl: Ctl) -> None:
    assert "job enqueue" in ctl.run("enqueue", "t.a", code=2).stderr
    assert "No such command" in ctl.run("nonsense", code=2).stderr
    assert "No such command" in ctl.run("job", "nonsense", code=2).stderr


def leaves() -> Iterator[tuple[str, click.Command]]:
    """Yield all commands that the help shows, with their names."""
    for name, noun in cli.commands.items():
        if isinstance(noun, click.Group):
            yield from ((f"{name} {verb}", each) for verb, each in noun.commands.items())
        else:
            yield name, noun


def test_there_is_one_verb_for_removal() -> None:
    shown = {name for name, command in leaves() if not command.hidden}
    removals = {name for name in shown if name.endswith((" rm", " delete", " purge", " clear"))}
    assert removals == {
        f"{noun} rm"
        for noun in (
            *("cron", "dead", "error", "job", "limit", "mark", "pool", "profile", "queue"),
            *("schema", "tenant", "webhook", "worker"),
        )
    }


def test_every_list_has_a_period() -> None:
    without = {
        name
        for name, command in leaves()
        if name.endswith(" ls") and not any(each.name == "_since" for each in command.params)
    }
    assert without == {"limit ls", "pool ls", "profile ls"}, "their entries have no time"


def test_lists_leave_out_what_is_not_in_the_period(ctl: Ctl) -> None:
    [job_id] = ctl.enqueue("q.period")
    for noun, more in (("job", ("--queue", "q.period")), ("queue", ()), ("bulk", ())):
        everything = ctl.names(noun, "ls", *more)
        assert ctl.names(noun, "ls", *more, "--since", "2d") == everything
        assert ctl.names(noun, "ls", *more, "--until", "2020-01-01") == []
        assert ctl.names(noun, "ls", *more, "--since", "2d", "--until", "1d") == []
        assert ctl.names(noun, "ls", *more, "--older-than", "1d") == []
    words = ("job", "ls", "--queue", "q.period", "--sort", "priority", "--state", "available")
    assert ctl.names(*words) == [job_id]
    assert ctl.names("dead", "ls", *QUEUE, "--until", "1d") == []
    assert ctl.names("dead", "ls", *QUEUE, "--since", "1d") == ctl.names("dead", "ls", *QUEUE)
    assert ctl.run("events", "--until", "1d").stdout == ""
    assert ctl.json("stats", "--since", "1h", "--until", "30m") is not None


def test_queues_are_sorted_by_a_number(ctl: Ctl) -> None:
    for count, name in ((2, "q.z.sorted"), (3, "q.a.sorted"), (1, "q.m.sorted")):
        ctl.enqueue(name, count)
    names = [each for each in ctl.names("queue", "ls", "--sort", "available") if "sorted" in each]
    assert names == ["q.a.sorted", "q.z.sorted", "q.m.sorted"]
    rows = ctl.json("queue", "ls", "--sort", "dead", "--limit", "3")
    counts = [row["dead_letters"] for row in rows]
    assert counts == sorted(counts, reverse=True)
    assert len(rows) == 3


def test_lists_are_chosen_by_state_queue_and_host(ctl: Ctl) -> None:
    for name, host in (("w-here", "h1"), ("w-there", "h2")):
        beat = {"worker_id": name, "queues": ["q.of", name], "hostname": host}
        ctl.api.post("/ojs/v1/workers/heartbeat", beat)
    ctl.run("worker", "quiet", "w-there")
    assert set(ctl.names("worker", "ls", "--queue", "q.of")) == {"w-here", "w-there"}
    assert ctl.names("worker", "ls", "--queue", "w-here") == ["w-here"]
    assert ctl.names("worker", "ls", "--host", "h2") == ["w-there"]
    assert ctl.names("worker", "ls", "--queue", "q.of", "--state", "quiet") == ["w-there"]
    assert ctl.names("worker", "ls", "--queue", "q.of", "--state", "stale") == []
    [tagged] = ctl.enqueue("q.chosen", options={"tags": ['a "b\\"']})
    ctl.enqueue("q.chosen")
    assert ctl.names("job", "ls", "--queue", "q.chosen", "--tag", 'a "b\\"') == [tagged]
    ctl.api.post("/ojs/v1/workers/fetch", {"queues": ["q.chosen"], "worker_id": "w-here"})
    assert ctl.names("job", "ls", "--queue", "q.chosen", "--worker", "w-here") == [tagged]
    ctl.run("queue", "drain", "q.chosen")
    assert "q.chosen" in ctl.names("queue", "ls", "--state", "draining")
    assert "q.chosen" not in ctl.names("queue", "ls", "--state", "paused")
    assert "seed-report" not in ctl.names("cron", "ls", "--state", "paused")


def test_changes_are_listed(ctl: Ctl) -> None:
    ctl.enqueue("q.audit")
    ctl.run("queue", "pause", "q.audit")
    words = ("audit", "ls", "--action", "queue.pause")

    def changed() -> set[str]:
        return {entry["object"] for entry in ctl.json(*words, "--since", "1h")}

    ctl.until(lambda: "q.audit" in changed(), "the entry is written")
    ctl.run("queue", "pause", "q.other.audit", "--yes")
    ctl.until(lambda: "q.other.audit" in changed(), "the entry is written")
    for option in ("--object", "--queue"):
        found = ctl.json("audit", "ls", option, "q.audit")
        assert {entry["object"] for entry in found} == {"q.audit"}
    assert re.search(r"^20\d\d-\S+ \S+  queue\.pause ", ctl.run(*words).stdout, re.MULTILINE)
    assert len(ctl.names(*words, "-n", "1")) == 1
    assert ctl.json(*words, "--until", "1h") == []
    assert ctl.json(*words, "--by", "stranger") == []


def test_a_waiting_job_is_edited(ctl: Ctl) -> None:
    [job_id] = ctl.enqueue("q.edit", tags=["a"])
    options = ("--priority", "7", "--arg", '{"n": 1}', "--arg", "x", "--attempts", "9")
    more = ("--meta", "user=7", "--run-timeout", "90s", "--expires", "2h", "--tag", "b")
    assert ctl.run("job", "edit", job_id, *options, *more).stdout.startswith(f"job {job_id} chan")
    job = ctl.json("job", "get", job_id)
    assert (job["priority"], job["args"], job["max_attempts"]) == (7, [{"n": 1}, "x"], 9)
    assert (job["meta"], job["timeout_ms"], job["tags"]) == ({"user": 7}, 90_000, ["b"])
    ctl.run("job", "edit", job_id, "--remove", "expires", "--remove", "tags")
    assert not {"expires_at", "tags"} & ctl.json("job", "get", job_id).keys()
    assert "Name what" in ctl.run("job", "edit", job_id, code=2).stderr
    assert "is no JSON" in ctl.run("job", "edit", job_id, "--arg", "{1}", code=2).stderr
    assert "scheduled" in ctl.run("job", "edit", job_id, "--at", "1h", code=4).stderr


def test_a_job_is_moved_to_another_queue(ctl: Ctl) -> None:
    [job_id] = ctl.enqueue("q.move")
    assert (
        "no queue 'q.move.target'" in ctl.run("job", "move", job_id, "q.move.target", code=3).stderr
    )
    moved = ctl.run("job", "move", job_id, "q.move.target", "--yes")
    assert moved.stdout == f"job {job_id} is in queue q.move.target\n"
    assert ctl.names("job", "move", job_id, "q.move.target") == [job_id]
    assert ctl.names("job", "ls", "--queue", "q.move.target") == [job_id]


def test_jobs_are_removed(ctl: Ctl) -> None:
    one, *_ = ctl.enqueue("q.rm", 4)
    assert "--yes" in ctl.run("job", "rm", one, code=2).stderr
    assert one in ctl.run("job", "rm", one, "--yes", code=4).stderr, "it waits"
    ctl.run("job", "cancel", one)
    assert ctl.run("job", "rm", one, "--yes").stdout == f"job {one} removed\n"
    words = ("job", "rm", "--queue", "q.rm")
    assert ctl.json(*words, "--dry-run")["matched"] == 0, "jobs that wait are named by their state"
    assert ctl.json(*words, "--state", "available", "--dry-run")["matched"] == 3
    assert ctl.run(*words, "--state", "available", "--yes").stdout == "3 jobs purged\n"
    assert ctl.names("job", "ls", "--queue", "q.rm") == []


def test_ids_of_jobs_and_workers_are_completed(ctl: Ctl) -> None:
    ids = ctl.enqueue("q.complete", 3)
    ctl.api.post("/ojs/v1/workers/heartbeat", {"worker_id": "w-complete", "queues": ["q"]})

    def completed(text: str) -> list[str]:
        env = {"_OJSCTL_COMPLETE": "bash_complete", "COMP_WORDS": f"ojsctl {text}"}
        env["COMP_CWORD"] = str(len(text.split(" ")))
        lines = ctl.run(env=env).stdout.splitlines()
        return [line.partition(",")[2] for line in lines]

    assert set(ids) <= set(completed("job get "))
    assert completed(f"job cancel {ids[0][:-1]}") == [ids[0]]
    assert "w-complete" in completed("worker terminate w-c")


def test_an_unknown_queue_is_not_changed_unasked(ctl: Ctl) -> None:
    ctl.enqueue("q.known")
    changes = {"partitions": ("2",), "limit": ("--concurrency", "2")}
    changes |= {"config": ("--set", "default_timeout=60"), "pause": (), "drain": (), "resume": ()}
    for verb, words in changes.items():
        name = f"q.new.{verb}"
        refused = ctl.run("queue", verb, name, *words, code=3)
        assert "--yes changes it" in refused.stderr
        ctl.run("queue", "get", name, code=3)
        ctl.run("queue", verb, name, *words, "--yes")
        ctl.run("queue", verb, "q.known", *words)
    ctl.run("queue", "limit", "q.new.other")
    wrong = ctl.run("queue", "config", "q.new.limit", "--set", 'retention={"a":}', code=2)
    assert "is no JSON" in wrong.stderr


def test_an_archive_is_made_by_the_server_command(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "ojs-cluster export" in ctl.run("export", "--help").output
    monkeypatch.setattr("shutil.which", lambda _name: None)
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    assert "is not installed here" in ctl.run("import", "x.jsonl", code=1).stderr


def test_output_as_json_is_that_of_the_server(ctl: Ctl) -> None:
    assert json.loads(ctl.run("queue", "get", "seed.mail", "--json").stdout)["name"] == "seed.mail"
