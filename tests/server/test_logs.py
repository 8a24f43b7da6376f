"""Log lines: one JSON object each, extra fields kept, secrets masked."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import pytest

from ojs_cluster.server.config.load import load
from ojs_cluster.server.logs import configure_logging
from ojs_cluster.server.read_api_keys import read_keys


@pytest.fixture(autouse=True)
def restored_root() -> Iterator[None]:
    """Put the root logger back as it was."""
    root, audit = logging.getLogger(), logging.getLogger("ojs.audit")
    before, level, audit_level = list(root.handlers), root.level, audit.level
    yield
    audit.setLevel(audit_level)
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


def configured(
    form: Literal["json", "text"] = "json", level: str = "INFO", secrets: tuple[str, ...] = ()
) -> StringIO:
    stream = StringIO()
    configure_logging(level, form, process="api-0", secrets=secrets, stream=stream)
    return stream


def parsed(stream: StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_line_has_the_usual_fields_and_the_extra_ones() -> None:
    stream = configured()
    logging.getLogger("ojs.x").info("hello %s", "there", extra={"request_id": "req_1", "n": 2})
    (line,) = parsed(stream)
    assert line["msg"] == "hello there"
    assert (line["level"], line["logger"], line["process"]) == ("info", "ojs.x", "api-0")
    assert (line["request_id"], line["n"]) == ("req_1", 2)
    assert line["ts"].endswith("Z")


def test_lines_of_the_audit_are_written_at_every_level() -> None:
    stream = configured(level="ERROR")
    logging.getLogger("ojs.x").warning("not this one")
    logging.getLogger("ojs.audit").info("queue.pause q: ok", extra={"action": "queue.pause"})
    (line,) = parsed(stream)
    assert (line["logger"], line["action"]) == ("ojs.audit", "queue.pause")


def test_exception_stays_on_one_line() -> None:
    stream = configured()
    try:
        raise ValueError("two\nlines")  # noqa: TRY301 - to have one to log
    except ValueError:
        logging.getLogger("ojs.x").exception("failed")
    (line,) = parsed(stream)
    assert "ValueError: two" in line["exc"]


def test_values_that_json_does_not_know_are_shown_all_the_same() -> None:
    stream = configured()
    logging.getLogger("ojs.x").info("x", extra={"path": object(), "map": {1: "a"}})
    assert parsed(stream)[0]["map"] == {"1": "a"}


@pytest.mark.parametrize("form", ["json", "text"])
def test_secrets_are_masked_wherever_they_stand(form: Literal["json", "text"]) -> None:
    secret = 'pa"ss\\word'
    stream = configured(form, secrets=(secret, "longer-" + secret))
    logger = logging.getLogger("ojs.x")
    logger.info("redis://:%s@host", secret, extra={"url": f"longer-{secret}"})
    try:
        raise ValueError(secret)  # noqa: TRY301 - to have one to log
    except ValueError:
        logger.exception("failed")
    text = stream.getvalue()
    assert "***" in text
    assert "ss\\" not in text.replace("***", "")
    assert "longer-" not in text


def test_level_is_respected_and_libraries_are_quieter() -> None:
    stream = configured(level="INFO")
    logging.getLogger("ojs.x").debug("no")
    logging.getLogger("hypercorn.error").info("no")
    logging.getLogger("hypercorn.error").warning("yes")
    assert [line["msg"] for line in parsed(stream)] == ["yes"]


def test_text_form_is_one_readable_line() -> None:
    stream = configured("text")
    logging.getLogger("ojs.x").warning("look", extra={"shard": 3})
    assert stream.getvalue().endswith("WARNING api-0 look (shard=3)\n")


def test_text_form_shows_where_a_value_ends() -> None:
    """A client chooses the id of its request, and needs no key to be in the audit."""
    stream = configured("text")
    forged = "r, count=1) queue.purge mail: ok (principal=root"
    logging.getLogger("ojs.audit").info("no", extra={"request_id": forged, "count": 1})
    assert stream.getvalue().endswith(f'no (request_id="{forged}", count=1)\n')


def test_a_secret_that_the_key_file_names_is_masked_from_then_on(tmp_path: Path) -> None:
    secret = "a-secret-of-the-environment-of-this-process"
    file = tmp_path / "keys.toml"
    file.write_text('[[key]]\nname = "ci"\nsecret_env = "CI_KEY"\npreset = "viewer"\n')
    stream = configured()
    read_keys(load({"OJS_API_KEYS_FILE": str(file)}).access, {"CI_KEY": secret})
    logging.getLogger("ojs.x").warning("refused %s", secret)
    again = configured()
    logging.getLogger("ojs.x").warning("refused %s", secret)
    for written in (stream, again):
        (line,) = parsed(written)
        assert line["msg"] == "refused ***"
