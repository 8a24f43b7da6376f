"""The records of bulk operations: what is to be done, and how far it is."""
