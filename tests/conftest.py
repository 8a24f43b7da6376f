"""Fixtures that every test may use, and how hypothesis chooses its examples."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

from tests.chaos.options import pytest_addoption  # noqa: F401 - a hook
from tests.support.certificates import certificates  # noqa: F401 - a fixture
from tests.support.interrupts import pytest_exception_interact  # noqa: F401 - a hook
from tests.support.loggers import loggers_as_they_were  # noqa: F401 - a fixture
from tests.support.order import (  # noqa: F401 - hooks
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_report_header,
)
from tests.support.second_tries import pytest_terminal_summary  # noqa: F401 - a hook
from tests.support.servers import (  # noqa: F401 - pytest finds fixtures by name
    backend,
    cluster,
    cluster_servers,
    server_binary,
    standalone,
    standalone_server,
)

# A test says the same about the same code, however slow or busy the machine is: no deadline for an
# example, and the same examples, save for constants that hypothesis finds in modules loaded so far.
# `pytest --hypothesis-profile=random` looks for new ones.
settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("random", settings.get_profile("steady"), derandomize=False)
settings.load_profile("steady")

# A shell starts commands in the background so that they ignore SIGINT. The programs that tests
# interrupt would inherit that, and tests would wait for them without end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
