"""Handlers for operators (spec: ojs-admin-api)."""
