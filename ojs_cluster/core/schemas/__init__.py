"""Schemas of job args: versions, checks of a schema, validation, comparison of two versions."""
