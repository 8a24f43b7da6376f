"""Outgoing HTTP requests, of webhooks and of the dashboard's single sign-on."""
