"""A discrete-event simulation of a whole cluster: what limits it at 10, 100 and 1 000 masters.

``engine`` is virtual time and ``process`` an event loop in it. ``cluster`` simulates full clusters,
``waking`` jobs that wake workers; ``limits`` calculates what grows without requests. ``costs``
reads what a step costs from ``costs.toml``, and ``measure`` measures that again.

Standalone servers on 1 and 32 connections calibrate the costs. What the simulation says of clusters
is a prediction, which ``tests/loadtest/test_sim.py`` compares with what was measured of them.
"""
