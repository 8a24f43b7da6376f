"""The life of a job: enqueue, fetch, settle, and what decides about it in the same script."""
