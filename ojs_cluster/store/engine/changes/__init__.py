"""Changes of jobs that are stored: edits, deletions, purges."""
