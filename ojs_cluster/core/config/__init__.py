"""Declare the environment variables that fill settings, and parse their values."""
