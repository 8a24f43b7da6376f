"""The packages for Python's index: complete, reproducible, and working without this checkout."""

from __future__ import annotations

import os
import re
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from readme_renderer import markdown
from trove_classifiers import classifiers

from tests.distributions import pages, trial
from tests.distributions.build import PROJECTS, build, check
from tests.helm.package import ROOT
from tests.test_docs import broken_links

URL = "https://code.example/shop/ojs-cluster"
EPOCH = 1_700_000_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Build an sdist and a wheel of each package."""
    return build(tmp_path_factory.mktemp("dist"), EPOCH, URL)


def contents(path: Path) -> dict[str, bytes]:
    """Return the files of an sdist or a wheel."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}
    with tarfile.open(path) as sdist:
        files = [member for member in sdist.getmembers() if member.isfile()]
        found = {member.name: sdist.extractfile(member) for member in files}
        return {name.partition("/")[2]: file.read() for name, file in found.items() if file}


def metadata(path: Path) -> Message:
    """Return what the index reads of a package."""
    (name,) = (n for n in contents(path) if re.fullmatch(r"PKG-INFO|[^/]+\.dist-info/METADATA", n))
    return message_from_bytes(contents(path)[name])


def test_each_package_is_licensed_described_and_found(built: list[Path]) -> None:
    assert len(built) == 2 * len(PROJECTS)
    licence = (ROOT / "LICENSE").read_bytes()
    for path in built:
        files, shown = contents(path), metadata(path)
        assert licence in [data for name, data in files.items() if name.endswith("LICENSE")]
        assert (shown["License-Expression"], shown["License-File"]) == ("Apache-2.0", "LICENSE")
        addresses = [each.partition(", ")[2] for each in shown.get_all("Project-URL", [])]
        assert len(addresses) == 5
        assert all(address.startswith(URL) for address in addresses)
        assert set(shown.get_all("Classifier", [])) <= classifiers
        assert shown["Keywords"]
        assert not [name for name in files if name.startswith("tests/")]
    check(built)


def test_each_page_on_the_index_has_no_link_into_nowhere(built: list[Path]) -> None:
    for path in built:
        text = str(metadata(path).get_payload())
        page = markdown.render(text)
        assert page is not None
        links = re.findall(r'(?:href|src|srcset)="([^"]+)"', page)
        assert links
        assert [link for link in links if not link.startswith(("https://", "#"))] == []
        version = re.escape(str(metadata(path)["Version"]))
        local = re.sub(rf"{URL}/(?:blob|raw)/v{version}/", "", text)
        assert URL not in local
        assert broken_links(local, ROOT) == []


def test_without_an_address_a_page_has_the_texts_of_its_links() -> None:
    text = (
        'See [a](b.md), [c](#d), [e](https://f.g).\n<picture>\n<img src="h.png">\n</picture>\nEnd'
    )
    shown = pages.readme(text, Path(), None, "1")
    assert shown == "See a, [c](#d), [e](https://f.g).\nEnd"
    assert pages.urls(None, "1") == ""


def test_links_of_a_page_lead_to_the_tag() -> None:
    text = '[a](../b.md#c) ![d](e.png) <img src="f/g.png"> [h](#i) [j](https://k.l)'
    shown = pages.readme(text, Path("x/y"), URL, "1.2")
    assert shown == (
        f"[a]({URL}/blob/v1.2/x/b.md#c) ![d]({URL}/raw/v1.2/x/y/e.png) "
        f'<img src="{URL}/raw/v1.2/x/y/f/g.png"> [h](#i) [j](https://k.l)'
    )


def test_the_wheels_have_every_file_of_the_packages(built: list[Path]) -> None:
    shipped = {name for path in built if path.suffix == ".whl" for name in contents(path)}
    folders = (ROOT, "ojs_cluster"), (ROOT / "scheduler", "ojs_scheduler")
    for folder, package in (*folders, (ROOT / "clients/python/src", "ojs_client")):
        for path in (folder / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert str(path.relative_to(folder)) in shipped


def test_the_wheel_of_the_client_is_a_plugin_of_pytest(built: list[Path]) -> None:
    (wheel,) = (path for path in built if path.match("ojs_client-*.whl"))
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith("/entry_points.txt"))
        assert "[pytest11]\nojs = ojs_client.pytest_plugin" in opened.read(name).decode()


def test_the_same_files_give_the_same_bytes(built: list[Path], tmp_path: Path) -> None:
    (ROOT / "ojs_cluster" / "py.typed").touch()  # a checkout at another time
    before = os.umask(0o077)
    try:
        again = build(tmp_path, EPOCH, URL)
    finally:
        os.umask(before)
    assert [path.name for path in again] == [path.name for path in built]
    for one, other in zip(built, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_installed_wheels_run_the_first_job(built: list[Path], tmp_path: Path) -> None:
    trial.first_job([path for path in built if path.suffix == ".whl"], tmp_path)
