"""``make loadtest``: a load test of what ``make run`` starts, on a cluster of its own.

    python -m loadtest.local [--profile mixed] [locust's own options]

Without ``--host`` it starts an embedded cluster with its nodes in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PROFILES = Path(__file__).parent / "profiles"


@contextlib.contextmanager
def dev(folder: str) -> Iterator[str]:
    """Run ``ojs-cluster dev`` with its data in ``folder``; yield its URL when it serves."""
    command = [sys.executable, "-m", "ojs_cluster.cli", "dev", "--data", folder]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = None
        for line in process.stdout:
            found = re.search(r"API\s+(http\S+)/ojs/v1", line)
            url = found[1] if found else url
            if "Ctrl-C" in line:
                break
        if url is None:
            raise SystemExit("the embedded system did not start: see above")
        yield url
    finally:
        process.terminate()
        # Otherwise its output would fill the pipe, and it could not end.
        process.communicate(timeout=60)


def main() -> int:
    """Run locust; return its exit code, which is 1 if a request has failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = sorted(path.stem for path in PROFILES.glob("*.conf"))
    parser.add_argument("--profile", default="mixed", choices=names)
    parser.add_argument("--host", help="a server to load instead of one of our own")
    options, rest = parser.parse_known_args()
    with contextlib.ExitStack() as stack:
        host = options.host
        if host is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            host = stack.enter_context(dev(folder))
        config = PROFILES / f"{options.profile}.conf"
        command = [sys.executable, "-m", "locust", "--config", str(config), "--host", host, *rest]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
