"""Export of a whole cluster to a file, and import from one."""
