"""An OJS server in memory, for the tests of applications.

``FakeServer`` has a clock that the test moves. ``docs/guide/testing.md`` shows its use.
"""

from ojs_client.testing.clock import Clock
from ojs_client.testing.server import FakeServer

__all__ = ["Clock", "FakeServer"]
