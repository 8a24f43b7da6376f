"""Read many sorted sets by few scripts."""
