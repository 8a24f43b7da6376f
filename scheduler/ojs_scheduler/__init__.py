"""The scheduler process: the election of a leader for each shard, and the work of a leader.

An election decides which of several processes is the leader of a shard (``election``). A
*loop* is one kind of recurring work: promote due jobs, reap expired leases, recover jobs of dead
workers, clean up (``runner``). A *step* is one bounded piece of such work on one shard.
A *term* is the time during which a process leads a shard. Two processes may run the same step at
the same time without harm, so correctness does not depend on a single leader.
"""
