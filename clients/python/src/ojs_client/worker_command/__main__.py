"""``python -m ojs_client.worker_command``: the command where no script is installed."""

import sys

from ojs_client.worker_command import main

if __name__ == "__main__":
    sys.exit(main())
