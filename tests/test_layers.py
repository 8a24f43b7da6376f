"""Imports only point to the same or a lower layer (docs/architecture.md, Layers)."""

from __future__ import annotations

import ast
import graphlib
import itertools
import re
import subprocess
import sys
from functools import cache
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
    "ojs_scheduler": 4,
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
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return name.removeprefix("scheduler.").removeprefix("clients.python.src.")


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
        sides = {each.split(".")[0] == "ojs_scheduler" for each in (name, target)}
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


PACKAGES = (
    ROOT / "ojs_cluster",
    ROOT / "scheduler/ojs_scheduler",
    ROOT / "clients/python/src/ojs_client",
)


def folders() -> list[Path]:
    """Return every folder with modules, at every depth."""
    return [path.parent for package in PACKAGES for path in sorted(package.rglob("__init__.py"))]


def module_of(path: Path) -> str:
    return name_of(path).removeprefix("clients.python.src.")


@cache
def imports_between_modules() -> dict[str, set[str]]:
    paths = {module_of(path): path for package in PACKAGES for path in package.rglob("*.py")}
    return {name: imported(path, set(paths)) - {name} for name, path in paths.items()}


def arrows_in(folder: Path) -> dict[tuple[str, str], list[str]]:
    """Return the imports between the direct children of a folder, by the two children."""
    prefix = f"{module_of(folder)}."
    found: dict[tuple[str, str], list[str]] = {}
    for name, targets in imports_between_modules().items():
        for target in targets:
            if name.startswith(prefix) and target.startswith(prefix):
                pair = tuple(each.removeprefix(prefix).split(".")[0] for each in (name, target))
                if pair[0] != pair[1]:
                    found.setdefault((pair[0], pair[1]), []).append(f"{name} imports {target}")
    return found


@pytest.mark.parametrize("folder", folders(), ids=module_of)
def test_the_children_of_a_folder_import_in_one_direction(folder: Path) -> None:
    arrows = arrows_in(folder)  # see docs/adr/060-folders-that-import-in-one-direction.md
    graph: dict[str, set[str]] = {}
    for source, target in arrows:
        graph.setdefault(source, set()).add(target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        circle = error.args[1]
        steps = [arrows[pair][0] for pair in itertools.pairwise(reversed(circle))]
        pytest.fail(f"{module_of(folder)}: {' -> '.join(reversed(circle))}\n" + "\n".join(steps))


def test_features_hardly_import_each_other() -> None:
    assert sorted(arrows_in(ROOT / "ojs_cluster/store/features")) == [
        ("agents", "progress"),
        ("bulk", "bulk_records"),
        ("bulk", "dead_letters"),
        ("bulk", "error_groups"),
        ("bulk", "queue_deletion"),
        ("bulk", "search"),
        ("queue_deletion", "bulk_records"),
        ("queue_deletion", "queue_drains"),
        ("queue_deletion", "rate_limits"),
        ("queue_deletion", "retention"),
        ("queue_drains", "bulk_records"),
        ("retention", "error_groups"),
        ("retention", "queue_drains"),
        ("retention", "webhooks"),
        ("webhooks", "events"),
    ]


def test_every_script_has_a_memory_line() -> None:
    silent = [
        name
        for name, text in read_transitions().items()
        if not re.search(r"^-- Memory: (no-writes|allow-oom|deny-oom)\b", text, re.M)
    ]
    assert silent == []  # see docs/adr/022-a-full-redis.md
