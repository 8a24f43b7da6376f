"""The history of a job, and its place in its workflow (spec: ojs-execution-history)."""
