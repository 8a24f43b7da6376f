"""Jobs without I/O: envelope, enqueue options, states, ids, failures, retry policies."""
