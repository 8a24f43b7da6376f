"""Tasks: functions that producers enqueue and workers run."""
