"""Declarations of environment variables, beside the settings that they fill."""
