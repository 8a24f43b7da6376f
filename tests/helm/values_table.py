"""Generate documentation and schema of values and variables from their definitions.

    python -m tests.helm.values_table

It writes the table of the chart's README from the comments of values.yaml, the variables of
``config`` into values.schema.json, and values that the first chart did not have into
files/added-values.json. Tests fail when they are outdated.
"""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import yaml

from ojs_cluster.server.config.all_variables import VARIABLES
from tests.helm.chart import CHART

README = CHART / "README.md"
SCHEMA = CHART / "values.schema.json"
ADDED = CHART / "files" / "added-values.json"
FIRST = Path(__file__).with_name("ojs-cluster-0.1.0.tgz")
"""The first chart that was installed on a cluster. Later charts accept its values."""
DERIVED = {
    "OJS_PORT",
    "OJS_WORKERS",
    "OJS_SCHEDULER_PORT",
    "OJS_METRICS_OPEN",
    "OJS_SHUTDOWN_TIMEOUT",
    "OJS_SHUTDOWN_DELAY",  # preStop waits instead, before SIGTERM
    "OJS_API_KEY",
    "OJS_API_KEYS",
    "OJS_API_KEYS_FILE",
    "OJS_ALLOW_INSECURE_NO_AUTH",
    "REDIS_URL",
    "OJS_REDIS_USERNAME",
    "OJS_REDIS_PASSWORD",
    "OJS_REDIS_TLS_CA",
    "OJS_REDIS_TLS_CERT",
    "OJS_REDIS_TLS_KEY",
    "OJS_UI",
    "OJS_UI_BASE",
    "OJS_UI_PROXY_USER",
    "OJS_UI_PROXY_GROUPS",
    "OJS_UI_PROXY_ROLES",
    "OJS_UI_OIDC_ISSUER",
    "OJS_UI_OIDC_CLIENT_ID",
    "OJS_UI_OIDC_CLIENT_SECRET",
    "OJS_UI_OIDC_CLIENT_SECRET_FILE",
    "OJS_UI_OIDC_REDIRECT_URL",
    "OJS_UI_OIDC_ROLES",
    "OJS_TLS_CERT",
    "OJS_TLS_KEY",
    "OJS_TLS_CLIENT_CA",  # nothing in a cluster could probe such pods
}
"""Variables that ``config`` refuses, because another value sets them or the chart depends on them.
"""

MARK = "<!-- The rest is made from values.yaml by `make chart-docs`. -->"

_KEY = re.compile(r"^( *)([A-Za-z]+):")


def readme() -> str:
    """Return the README: its handwritten part, then the table."""
    by_hand, mark, _ = README.read_text().partition(MARK)
    assert mark, f"{README} has lost its mark"
    return f"{by_hand}{MARK}\n\n{table()}"


def table() -> str:
    """Return one row per value; every value needs a comment.

    Raises:
        AssertionError: a value has no comment.
    """
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    described = comments((CHART / "values.yaml").read_text())
    undescribed = leaves(values, "") - set(described)
    assert not undescribed, f"values without a comment: {sorted(undescribed)}"
    rows = ["| Value | Default | Meaning |", "|---|---|---|"]
    for path, text in described.items():
        value: Any = values
        for name in path.split("."):
            value = value[name]
        rows.append(f"| `{path}` | `{json.dumps(value)}` | {text} |")
    return "\n".join(rows) + "\n"


def comments(text: str) -> dict[str, str]:
    """Return the text after `# --` and its continuation lines, by the path of its key."""
    found: dict[str, str] = {}
    path: list[str] = []
    pending: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            pending = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("#") and pending:
            pending.append(stripped.removeprefix("#").strip())
        elif key := _KEY.match(line):
            path = [*path[: len(key[1]) // 2], key[2]]
            if pending:
                found[".".join(path)] = " ".join(pending)
                pending = []
    return found


def leaves(values: Any, prefix: str) -> set[str]:
    """Return the paths that need a description, without those below a described object."""
    described = comments((CHART / "values.yaml").read_text())
    found: set[str] = set()
    for name, value in values.items():
        path = f"{prefix}{name}"
        if path in described or not isinstance(value, dict):
            found.add(path)
        else:
            found |= leaves(value, f"{path}.")
    return found


def first_values() -> str:
    """Return values.yaml of the first chart."""
    with tarfile.open(FIRST) as package:
        file = package.extractfile("ojs-cluster/values.yaml")
        assert file is not None
        return file.read().decode()


def added() -> str:
    """Return the content of files/added-values.json: defaults by path of values added since."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    known = set(comments(first_values()))
    found = {}
    for path in sorted(leaves(values, "") - known):
        value: Any = values
        for name in path.split("."):
            value = value[name]
        found[path] = value
    return json.dumps(found, indent=2) + "\n"


def write() -> None:
    """Update the generated files."""
    README.write_text(readme())
    ADDED.write_text(added())
    schema = json.loads(SCHEMA.read_text())
    schema["properties"]["config"]["properties"] = {
        variable.name: {"$ref": "#/$defs/configValue"}
        for variable in VARIABLES
        if variable.name not in DERIVED
    }
    SCHEMA.write_text(json.dumps(schema, indent=2) + "\n")


if __name__ == "__main__":
    write()
