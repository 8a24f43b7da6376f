"""The app with the tables of the outbox."""

from django.apps import AppConfig


class OutboxConfig(AppConfig):
    """``ojs_client.django.outbox`` in ``INSTALLED_APPS``."""

    name = "ojs_client.django.outbox"
    label = "ojs_outbox"
