"""``ojsctl``: inspect and operate an OJS server from a terminal (extra ``ctl``)."""

from __future__ import annotations

import sys
from io import TextIOWrapper


def main() -> None:
    """Run ``ojsctl``; without the packages of the extra ``ctl``, print how to install them."""
    try:
        from ojs_client.ctl import app  # the packages may be missing
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit(
            f"ojsctl needs the package '{error.name}'. Install ojs-client with its extra 'ctl': "
            "pip install 'ojs-client[ctl]'"
        )
    if isinstance(sys.stdout, TextIOWrapper):
        # Jobs may have characters that the encoding of a pipe or a terminal lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    app.cli(prog_name="ojsctl")
