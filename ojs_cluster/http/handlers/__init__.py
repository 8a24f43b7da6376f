"""One module per feature. A handler parses, calls the store once, and answers."""
