"""An OpenJobSpec job server: stateless API processes over one Redis or Valkey Cluster."""

__version__ = "0.2.0"
