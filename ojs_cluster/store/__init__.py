"""The one door to the database: one function, one transition, one atomic step.

Every state change of a job (with its index, counters and event) is one Lua script on one shard;
see ``ojs_cluster/lua``. What spans shards is made of such steps so that a crash between two of
them is repaired by whoever comes next.
"""
