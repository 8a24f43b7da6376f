"""Tenants: the numbers of their jobs."""
