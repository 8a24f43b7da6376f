"""Configuration: the table of environment variables, their parsers, the typed settings."""
