"""Read the jobs of other job systems from their Redis (``ojs-cluster import --from``)."""
