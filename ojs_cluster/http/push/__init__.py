"""Push new events to clients (spec: ojs-realtime)."""
