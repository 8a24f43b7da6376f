"""The handlers, one module per feature. A handler parses, calls the store, and responds."""
