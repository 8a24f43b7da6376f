"""Detect a Python that was built without profile-guided optimization, which costs CPU time.

The check reads what ``sysconfig`` records about the build: the arguments of ``configure``, and the
flags of the compiler. (Rejected: to time a loop. The time depends on the processor and its load.) A
build counts as slow only if these records exist and name no profile-guided or link-time
optimization. Two kinds of optimized builds have no such records, so they never count as slow:

* Builds of distributions, whose prefix is ``/usr``. Debian and Ubuntu remove the flags.
* Builds of conda, which runs the optimizing make target without the option of ``configure``.

``make`` runs this file with every Python that it finds, so the file imports nothing of the project.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Mapping

SLOW_BUILD_COST = "1.2"
"""Minimum CPU time of a request with a slow build, relative to an optimized build
(docs/performance.md)."""
OLDEST_VERSION = (3, 11)
NEWEST_TESTED_VERSION = (3, 13)

_CONFIGURE_OPTIONS = re.compile(r"--(enable-optimizations|with-lto|enable-bolt)(?![\w-])(?!=no\b)")
_COMPILER_FLAGS = re.compile(r"-fprofile-(instr-)?use\b|-flto\b")
_RECORDED_FLAGS = ("PY_CORE_CFLAGS", "PY_CORE_LDFLAGS", "PY_CFLAGS", "PY_LDFLAGS")
_TRUSTED_PREFIXES = ("/usr", "/")


def is_slow(variables: Mapping[str, object], prefix: str, *, conda: bool = False) -> bool:
    """Return whether the records of a build say that it was not optimized.

    Args:
        variables: the result of ``sysconfig.get_config_vars``.
        prefix: folder where the interpreter is installed, not that of the virtual environment.
        conda: whether conda installed the interpreter.
    """
    if variables.get("Py_DEBUG"):
        return True
    arguments = variables.get("CONFIG_ARGS")
    if not isinstance(arguments, str) or not arguments:  # Windows, PyPy
        return False
    if conda or prefix in _TRUSTED_PREFIXES:
        return False
    flags = " ".join(str(variables.get(name, "")) for name in _RECORDED_FLAGS)
    return not (_CONFIGURE_OPTIONS.search(arguments) or _COMPILER_FLAGS.search(flags))


def runs_on_slow_build() -> bool:
    """Return whether the running interpreter was built without optimization."""
    conda = os.path.isdir(os.path.join(sys.base_prefix, "conda-meta"))
    return is_slow(sysconfig.get_config_vars(), sys.base_prefix, conda=conda)


def rank() -> str:
    """Return a line by which ``make`` sorts interpreters, the best one last.

    The line has 1 for an optimized build or 0 for a slow one, the minor version, and the path. A
    version that is newer than all tested ones gets the minor version 0, so it is sorted first.
    """
    optimized = 0 if runs_on_slow_build() else 1
    minor = sys.version_info[1] if sys.version_info[:2] <= NEWEST_TESTED_VERSION else 0
    return f"{optimized} {minor} {sys.executable}"


if __name__ == "__main__":
    if sys.version_info < OLDEST_VERSION:
        sys.exit(1)
    print(rank())
