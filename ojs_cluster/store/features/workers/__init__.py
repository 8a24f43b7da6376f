"""Workers: records, heartbeats, quiet flags, recovery of the jobs of dead workers."""
