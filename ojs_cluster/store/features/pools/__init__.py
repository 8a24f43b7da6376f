"""Worker pools: their records, the fetches that name them, and what these fetches got."""
