"""Tables fit the terminal: the output of commands at 80 and at 160 columns."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from tests.client_library.ctl.conftest import Shared
from tests.client_library.ctl.snapshot import COMMANDS, FOLDER, WIDTHS, check


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", COMMANDS)
def test_the_output_is_that_of_the_file(shared: Shared, name: str, width: int) -> None:
    text = shared.shown[name, width]
    if not name.endswith("-wide"):
        assert max(map(cell_len, text.splitlines())) <= width
    check(f"{name}-{width}", text)


def test_every_file_has_a_command() -> None:
    names = {f"{name}-{width}" for name in COMMANDS for width in WIDTHS}
    assert {file.stem for file in FOLDER.iterdir()} == names
