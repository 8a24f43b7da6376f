"""Detect a Python that was built without profile-guided optimization, which costs CPU time.

Only the build's own records can tell. A timed loop depends on the processor and its load. The
records are the arguments of ``configure`` and the compiler's flags, which
``sysconfig`` keeps. Two kinds of builds do not record what they did, and are trusted: distributions
(Debian and Ubuntu remove the flags from the records; their prefix is ``/usr``) and conda, which
runs the make target instead of naming the option. A build is called slow only when its records are
there and name neither optimization.

``make`` runs this file with every Python it finds, so it imports nothing of the project.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Mapping

COST = "1.2"
"""What a request costs the API under a slow build, as a ratio, at least (docs/performance.md)."""
OLDEST = (3, 11)
NEWEST_TESTED = (3, 13)

_OPTIONS = re.compile(r"--(enable-optimizations|with-lto|enable-bolt)(?![\w-])(?!=no\b)")
_FLAGS = re.compile(r"-fprofile-(instr-)?use\b|-flto\b")
_RECORDED_FLAGS = ("PY_CORE_CFLAGS", "PY_CORE_LDFLAGS", "PY_CFLAGS", "PY_LDFLAGS")
_TRUSTED_PREFIXES = ("/usr", "/")


def is_slow(variables: Mapping[str, object], prefix: str, *, conda: bool = False) -> bool:
    """Return whether a build's records say that it was not optimized.

    Args:
        variables: what ``sysconfig.get_config_vars`` gives.
        prefix: where the interpreter is installed, not the virtual environment.
        conda: whether conda installed it.
    """
    if variables.get("Py_DEBUG"):
        return True
    arguments = variables.get("CONFIG_ARGS")
    if not isinstance(arguments, str) or not arguments:  # Windows, PyPy
        return False
    if conda or prefix in _TRUSTED_PREFIXES:
        return False
    flags = " ".join(str(variables.get(name, "")) for name in _RECORDED_FLAGS)
    return not (_OPTIONS.search(arguments) or _FLAGS.search(flags))


def runs_on_slow_build() -> bool:
    """Return whether the running interpreter was built without optimization."""
    conda = os.path.isdir(os.path.join(sys.base_prefix, "conda-meta"))
    return is_slow(sysconfig.get_config_vars(), sys.base_prefix, conda=conda)


def rank() -> str:
    """Return a line that ``make`` sorts: 1 for an optimized build, the version, the path.

    A version that is newer than all tested ones counts as the oldest.
    """
    optimized = 0 if runs_on_slow_build() else 1
    minor = sys.version_info[1] if sys.version_info[:2] <= NEWEST_TESTED else 0
    return f"{optimized} {minor} {sys.executable}"


if __name__ == "__main__":
    if sys.version_info < OLDEST:
        sys.exit(1)
    print(rank())
