"""One module for each page. Each function takes a ``Visit`` and returns an ``Answer``."""
