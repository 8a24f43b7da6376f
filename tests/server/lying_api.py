"""An API process whose estimate calls every validation cheap, as a wrong estimate would."""

from __future__ import annotations

import sys

from ojs_cluster.core.schemas.cost import Cost
from ojs_cluster.server.processes.api_process import work
from ojs_cluster.server.supervision.child_process import run_child_process


def _nothing(_self: Cost, args: bytes) -> int:
    return 0


if __name__ == "__main__":
    Cost.coarse_ns = _nothing  # type: ignore[assignment]
    sys.exit(run_child_process(work))
