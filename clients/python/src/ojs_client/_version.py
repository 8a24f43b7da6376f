"""The version of this library, which the heartbeats of workers also report.

Server and library are released together, with one version.
"""

__version__ = "0.2.0"
