"""What a process keeps of the cluster: its caches, its tables, and what it has noticed."""
