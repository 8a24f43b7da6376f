"""Imports only point to the same or a lower layer (docs/architecture.md, Layers)."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ojs_cluster.store.ground.scripts import read_transitions

ROOT = Path(__file__).parent.parent

LAYERS = {
    "ojs_cluster.core": 1,
    "ojs_cluster.redis": 2,
    "ojs_cluster.keys": 2,
    "ojs_cluster.wall_clock": 2,
    "ojs_cluster.outgoing": 2,
    "ojs_cluster.webhooks": 2,
    "ojs_cluster.store": 3,
    "ojs_cluster.http": 4,
    "ojs_cluster.ui": 4,
    "scheduler": 4,
    "ojs_cluster.server": 5,
    "ojs_cluster.cli": 5,
}


def layer_of(module: str) -> int | None:
    """Return the layer of a module; None outside of this project and for the bare package."""
    for prefix, layer in LAYERS.items():
        if module == prefix or module.startswith(prefix + "."):
            return layer
    return None


def modules() -> list[Path]:
    return sorted([*(ROOT / "ojs_cluster").rglob("*.py"), *(ROOT / "scheduler").rglob("*.py")])


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            found.add(str(node.module))
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_import_points_to_a_higher_layer(path: Path) -> None:
    name = name_of(path)
    if name == "ojs_cluster":
        return
    own = layer_of(name)
    assert own is not None, f"{name} is in no layer: add it to LAYERS"
    for target in imports_of(path):
        layer = layer_of(target)
        if layer is None:
            continue
        assert layer <= own, f"{name} (layer {own}) imports {target} (layer {layer})"
        sides = {name.split(".")[0] == "scheduler", target.split(".")[0] == "scheduler"}
        if own == layer == 4:
            assert len(sides) == 1, f"{name} imports {target}: http and scheduler stay apart"


@pytest.mark.parametrize(
    "text",
    [
        "import time\n\nnow = time.time()\n",
        "from time import time_ns\n\nnow = time_ns()\n",
        "from datetime import UTC, datetime\n\nnow = datetime.now(UTC)\n",
    ],
)
@pytest.mark.parametrize("package", ["ojs_cluster/store", "scheduler"])
def test_only_one_module_may_read_the_clock_of_the_process(text: str, package: str) -> None:
    ruff = str(Path(sys.executable).with_name("ruff"))
    for name, is_refused in ((f"{package}/new.py", True), ("ojs_cluster/wall_clock.py", False)):
        command = [ruff, "check", "--select", "TID251", "--stdin-filename", name, "-"]
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, cwd=ROOT, check=False
        )
        assert ("is banned" in done.stdout) == is_refused, done.stdout + done.stderr


def imported(path: Path, known: set[str]) -> set[str]:
    """Return the modules among ``known`` that a module imports, also those under TYPE_CHECKING."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & known or {str(node.module)}
    return (found & known) - {name_of(path)}


def test_there_is_no_import_cycle() -> None:
    paths = {name_of(path): path for path in modules()}
    graph = {name: imported(path, set(paths)) for name, path in paths.items()}
    graphlib.TopologicalSorter(graph).prepare()  # its error names the modules of a cycle


def test_every_script_has_a_memory_line() -> None:
    silent = [
        name
        for name, text in read_transitions().items()
        if not re.search(r"^-- Memory: (no-writes|allow-oom|deny-oom)\b", text, re.M)
    ]
    assert silent == []  # see docs/adr/022-a-full-redis.md
