"""Statistics over time: of the cluster by minute and by hour, of each queue by minute."""
