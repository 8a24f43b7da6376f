"""Webhooks: subscriptions, and deliveries of events to them (spec: ojs-webhooks)."""
