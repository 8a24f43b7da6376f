"""The scheduler process: which shards it leads, and the sweeps of a shard's leader.

Election decides which of several processes works on a shard (``scheduler.election``). The loops
promote due jobs, reap lost leases, recover dead workers' jobs and clean up (``scheduler.runner``).
Correctness does not depend on a single leader: every step is one script that is safe when two
processes run it.
"""
