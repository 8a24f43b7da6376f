"""Event streams over WebSocket."""
