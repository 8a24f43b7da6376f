"""The registry of schemas of job args, and validation at enqueue (spec: ojs-schema-registry)."""
