"""Workflows: creation, progress, end, listing."""
