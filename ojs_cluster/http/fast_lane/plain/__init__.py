"""Plain enqueues, fetches and acks, which need no coroutine (docs/adr/065)."""
