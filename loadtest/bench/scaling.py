"""The limits of a cluster of 10, 100 and 1 000 masters, from the simulation ``loadtest.sim``.

python -m loadtest.bench.scaling [--quick]
"""

from __future__ import annotations

from loadtest.sim.__main__ import main

if __name__ == "__main__":
    main()
