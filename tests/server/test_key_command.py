"""`ojs-cluster key new`."""

from __future__ import annotations

import re

import pytest

from ojs_cluster.cli import main
from ojs_cluster.core.access.key_file import parse_key_file
from ojs_cluster.core.access.scopes import PRESETS


def test_a_new_key_opens_what_its_entry_says(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--name", "ci", "--preset", "producer", "--queue", "mail-*", "--queue", "a"]
    options += ["--tenant", "acme"]
    assert main(["key", "new", *options, "--expires-at", "2027-01-31T00:00:00Z"]) == 0
    printed = capsys.readouterr().out
    (secret,) = re.findall(r"^# (ojs_\S{43})$", printed, re.M)
    found = parse_key_file(printed.encode(), {}, {}).find(secret)
    assert found is not None
    assert (found.name, found.scopes) == ("ci", PRESETS["producer"])
    assert found.expires_at_s == 1801353600.0
    assert found.queues is not None
    assert found.queues.patterns == ("mail-*", "a")
    assert found.tenant == "acme"


def test_no_two_secrets_are_the_same_and_none_is_in_its_entry(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = []
    for _ in range(2):
        assert main(["key", "new", "--name", "ci", "--preset", "admin"]) == 0
        printed.append(capsys.readouterr().out)
    secrets = [re.findall(r"ojs_\S+", text) for text in printed]
    assert len(secrets[0]) == len(secrets[1]) == 1
    assert secrets[0] != secrets[1]
    assert "queues" not in printed[0]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--name", 'a"\nb'], "name: expected"),
        (["--name", "ci", "--queue", "A B"], "queues: expected a queue name"),
        (["--name", "ci", "--expires-at", "soon"], "expires_at: expected a time"),
        (["--name", "ci", "--tenant", "a b"], "tenant: expected 1 to 128 letters"),
    ],
)
def test_what_the_file_would_refuse_is_refused_here(
    capsys: pytest.CaptureFixture[str], options: list[str], problem: str
) -> None:
    assert main(["key", "new", "--preset", "viewer", *options]) == 2
    captured = capsys.readouterr()
    assert problem in captured.err
    assert captured.out == ""
