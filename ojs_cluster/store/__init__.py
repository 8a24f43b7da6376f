"""The store: the only part of the server that reads and writes jobs in Redis.

One function is one transition, and one transition is one Lua script on one shard. A script lies
beside the module that calls it. Work that spans shards consists of such steps, and any process can
finish what a crashed one began. The rooms:

* ``enqueue``, ``fetch``, ``jobs``: the lifecycle of a job.
* ``queues``, ``limits``, ``dead_letters``, ``workers``: what jobs belong to.
* ``workflows``, ``cron``, ``unique``: features built on the lifecycle.
* ``transactions``, ``outbox``: writes that reach more than one shard.
* ``sweeps``: what time causes (promotion, reaping, retention).
* ``operations``, ``archive``: what operators need.
* ``include``: pieces of Lua that several scripts share.

``open`` connects and returns a store; ``runtime`` and ``context`` are what every function takes.
Import functions from their modules. A list of re-exports here would load every feature in every
process, and would make an import cycle of each module that imports another room.
"""
