"""What happens when a node is silent: a master has died, hangs, or cannot be reached.

A node is silent while it has unanswered commands and sends nothing. Time in which this process does
not read does not count (``RedisConnection.silent_s``). ``SlotRouter`` checks all connections ten
times a second:

* After ``IMPATIENT_S`` the node is not responsive. Bursts of reads (``submit_reads``) end without
  the missing replies, and no call that only prepares a request waits for the node
  (``store/ground/background.py``).
* After ``SUSPECT_AFTER_S`` the router asks another node for the topology, which names the replica
  that has taken over.
* After ``ClientSettings.reply_timeout_s`` the connection ends (``RedisConnection.check``). Its
  commands fail: those in flight may have been applied, those that were never sent have not
  (``call_retry.py`` decides which are repeated). The link of the node opens a new connection.

Each command also ends after ``ClientSettings.call_timeout_s``.
"""

from __future__ import annotations

from typing import Final

IMPATIENT_S: Final = 0.5
"""Seconds without a reply of a node after which it is not responsive, and its reads end."""
SUSPECT_AFTER_S: Final = 1.0
"""Seconds without a reply of a node after which the topology is fetched from another node."""
