"""The library stands alone: a worker's application gets no web server with it."""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import ojs_client
import ojs_cluster

ROOT = Path(ojs_client.__file__).parent
ALLOWED = {"anyio", "httpx2", "msgspec", "ojs_client"}
CTL = "ojs_client.ctl"
"""The command line, which needs the packages of the extra ``ctl``."""
ALLOWED_BY = {
    CTL: {*ALLOWED, "click", "rich"},
    "ojs_client.django.management.commands.ojs_outbox": {*ALLOWED, "django", "psycopg"},
    "ojs_client.django": {*ALLOWED, "django"},  # only projects with Django import it
    "ojs_client.pytest_plugin": {*ALLOWED, "pytest"},
    "ojs_client.testing.schedules": {*ALLOWED, "croniter"},  # the extra ``testing``
    "ojs_client.outbox": {*ALLOWED, "psycopg", "sqlalchemy"},  # the extra, or the application
}


def modules() -> dict[str, Path]:
    """The modules of the library by name."""
    paths = sorted(ROOT.rglob("*.py"))
    return {_name(path): path for path in paths}


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, path
            found.add(str(node.module))
    return found


def test_it_imports_its_dependencies_and_nothing_else() -> None:
    for name, path in modules().items():
        packages = {target.partition(".")[0] for target in _imports(path)}
        allowed = next((ALLOWED_BY[each] for each in ALLOWED_BY if name.startswith(each)), ALLOWED)
        assert packages - sys.stdlib_module_names <= allowed, name


def test_only_the_command_line_imports_itself() -> None:
    for name, path in modules().items():
        if not name.startswith(CTL):
            assert not any(target.startswith(CTL) for target in _imports(path)), name


def test_the_command_line_says_how_to_install_what_it_needs() -> None:
    code = "import sys; sys.modules['click'] = None; import ojs_client.ctl as c; c.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "'click'" in done.stderr
    assert "pip install 'ojs-client[ctl]'" in done.stderr


def test_it_has_no_import_cycle() -> None:
    known = modules()
    graph = {name: (_imports(path) & set(known)) - {name} for name, path in known.items()}
    graphlib.TopologicalSorter(graph).prepare()


def test_it_has_the_version_of_the_server_with_which_it_is_released() -> None:
    assert ojs_client.__version__ == ojs_cluster.__version__


def test_it_is_typed() -> None:
    assert (ROOT / "py.typed").is_file()


def test_its_modules_are_short() -> None:
    assert [n for n, path in modules().items() if len(path.read_text().splitlines()) > 400] == []


def test_each_public_name_is_imported_when_it_is_used() -> None:
    assert sorted(ojs_client.__all__) == list(ojs_client.__all__)
    names = [name for names in ojs_client._MODULES.values() for name in names]
    assert sorted([*names, "__version__"]) == list(ojs_client.__all__)
    for name in ojs_client.__all__:
        assert getattr(ojs_client, name) is not None


def test_the_import_loads_no_tls_and_no_event_loop() -> None:
    code = (
        "import sys; from ojs_client import *; SyncClient('http://server'); Worker('http://server')"
        "; print({'ssl', 'httpx2', 'asyncio', 'msgspec', 'multiprocessing'} & set(sys.modules))"
    )
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean
    )
    assert done.stdout == "set()\n"


def test_an_app_imports_nothing_that_only_some_workers_need() -> None:
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from ojs_client import App; print(*sys.modules)"
    )
    done = subprocess.run(  # -S: the packages of this environment would import some
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert {"pathlib", "pickle", "signal", "multiprocessing"}.isdisjoint(done.stdout.split())
