"""Handlers of webhook subscriptions and their deliveries."""
