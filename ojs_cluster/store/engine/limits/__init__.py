"""Rate limits, concurrency limits and bounds on the depth of queues."""
