"""What each handler reads and returns, one module per family of routes."""
