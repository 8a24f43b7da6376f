"""The store: the only part of the server that reads and writes jobs in Redis.

One function is one transition, and one transition is one Lua script on one shard. A script is in
the folder of the module that calls it. An operation over several shards is a sequence of
transitions. If its process crashes, another process finishes it. The folders:

* ``enqueue``, ``fetch``, ``jobs``, ``progress``: the lifecycle of a job.
* ``queues``, ``limits``, ``dead_letters``, ``workers``: the state of queues, limits and workers.
* ``workflows``, ``cron``, ``unique``, ``bulk``: features built on the lifecycle.
* ``events``, ``webhooks``: what clients learn about transitions.
* ``schemas``: the schemas of job args, and validation with them.
* ``search``, ``statistics``, ``error_groups``: lists of jobs, numbers over time, and failures.
* ``transactions``, ``outbox``: writes that reach more than one shard.
* ``sweeps``: what time alone causes (promotion, reaping, end of retention).
* ``operations``, ``maintenance``, ``archive``: what operators need.
* ``include``: pieces of Lua that several scripts share.

``open`` connects and returns a store. Functions take a ``Store`` (``context``) or a ``Runtime``
(``runtime``). Import functions from their modules. This file re-exports none: each process
would then load every feature, and imports between the folders would be cycles.
"""
