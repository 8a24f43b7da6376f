"""Failures of a cluster, grouped by the type and the normalised message of their error."""
