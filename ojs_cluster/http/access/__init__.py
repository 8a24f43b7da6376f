"""Access control for requests: API keys, scopes, client certificates, and the audit."""
