"""Tenants: what operators set for them."""
