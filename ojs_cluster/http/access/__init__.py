"""Admission of requests: API keys, scopes, client certificates, refusals, the audit."""
