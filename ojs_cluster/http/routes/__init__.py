"""The rows of the route table, one module per family of routes."""
