"""The version of this library, which the heartbeats of workers also report."""

__version__ = "0.1.0"
