"""Statistics over time: totals of the cluster and of each queue, minute by minute and hourly."""
