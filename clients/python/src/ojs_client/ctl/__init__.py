"""``ojsctl``: inspect and operate an OJS server from a terminal (extra ``ctl``)."""

from __future__ import annotations

import sys


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
    app.cli(prog_name="ojsctl")
