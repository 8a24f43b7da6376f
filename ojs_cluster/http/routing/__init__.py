"""The routes, and how a request finds its route."""
