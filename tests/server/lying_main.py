"""``ojs-cluster`` with API processes whose estimate is wrong (``lying_api``)."""

from __future__ import annotations

import sys

from ojs_cluster.cli import main
from ojs_cluster.server.commands import serve

if __name__ == "__main__":
    serve.API_MODULE = "tests.server.lying_api"
    sys.exit(main())
