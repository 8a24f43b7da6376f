"""``ojs-worker``: its processes, its metrics and its log."""
