"""The scheduler process: who leads, and what a leader does while it leads.

Election decides which of several processes works (:mod:`scheduler.election`); the loops promote due
jobs, reap lost leases, recover dead workers' jobs and clean up (:mod:`scheduler.runner`). Nothing
here is needed for correctness twice: every step is one script that is safe when two run it.
"""
