"""The hypercorn entry point: a Quart-trio application that serves the route table."""
