"""Unique jobs: locks on fingerprints and conflict policies."""
