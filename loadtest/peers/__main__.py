"""Compare this project with other job libraries, interleaved in one run.

    python -m loadtest.peers [--rounds 3] [--jobs 2000] [--quick] [--only ours dramatiq]
        [--parts single batch ...] [--out docs/performance.md]

The libraries are installed from PyPI and npm into ``.cache/peers``; what cannot be installed is
printed. In each measurement one process enqueues jobs, and then another one runs them, with
handlers that do nothing. All libraries take turns in each round. Every library has the same Redis
with the same settings and an acknowledgement after the handler, and keeps no results. Ours has one
API process and one scheduler between. ``--out`` replaces the tables of a page, and draws the charts
into its folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from loadtest.peers import report
from loadtest.peers.catalogue import PEERS, obtain
from loadtest.peers.measuring import PARTS, Comparison, Settings
from ojs_cluster.server.embedded.servers import find_server


def main() -> None:
    """Run all rounds, print the tables, and write them into a page."""
    names = sorted({peer.name for peer in PEERS})
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2000, help="of a measurement; memory: 4 times")
    parser.add_argument("--seconds", type=float, default=5.0, help="of an open loop")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000], help="workflows")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--server", default="auto", help="as for `ojs-cluster dev`")
    parser.add_argument("--out", type=Path, help="a page whose tables are replaced")
    parser.add_argument("--installed", action="store_true", help="install nothing")
    parser.add_argument("--quick", action="store_true", help="fewer jobs and rounds")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.jobs, options.seconds = 1, 1000, 3.0
    peers, absent = obtain(options.only, may_install=not options.installed)
    for name, reason in absent.items():
        print(f"not obtainable: {name}: {reason}", flush=True)
    binary = find_server(options.server)
    found = Comparison(
        peers,
        Settings(options.rounds, options.jobs, options.seconds, options.parts, options.sizes),
    )
    try:
        found.run(binary)
    except KeyboardInterrupt:
        print("stopped; the tables have what is measured", flush=True)
    text = ""
    for title, part in report.sections(found, absent, binary):
        text += (f"### {title}\n\n" if title else "") + f"{part}\n\n"
    print(text)
    if options.out:
        report.write(options.out, text.rstrip() + "\n")
        report.draw(found, options.out.parent)


if __name__ == "__main__":
    main()
