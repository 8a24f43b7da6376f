"""The event streams of the shards: entries, content, and subscribers to new events."""
