"""The hypercorn entry: a Quart-trio application that serves the route table."""
