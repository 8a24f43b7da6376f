"""The scheduler process: which shards it leads, and what the leader of a shard does.

Election decides which of several processes works on a shard (:mod:`scheduler.election`); the loops
promote due jobs, reap lost leases, recover dead workers' jobs and clean up
(:mod:`scheduler.runner`). Nothing here is needed for correctness twice: every step is one script
that is safe when two run it.
"""
