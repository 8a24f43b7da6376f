"""Outgoing webhook requests: addresses that may be reached, signatures, and the HTTP client."""
