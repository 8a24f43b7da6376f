"""Read the bodies of requests: their limits, their memory, and their decoding."""
