"""A discrete-event simulation of a whole cluster: its limits at 10, 100 and 1 000 masters.

``engine`` is virtual time, and ``process`` is an event loop in it. ``cluster`` simulates full
clusters, and ``waking`` simulates jobs that wake workers. ``limits`` calculates costs that exist
without requests. ``costs`` reads the cost of each step from ``costs.toml``, and ``measure``
measures them again.

Standalone servers with 1, 8 and 32 connections calibrate the costs. Results for clusters are
predictions, which ``tests/loadtest/test_sim.py`` compares with measurements.
"""
