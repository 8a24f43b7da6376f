"""Worker pools: their configuration, and how they share fetches among queues."""
