"""What operators need: metrics, events, audit, health, leadership, data layout."""
