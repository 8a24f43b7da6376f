"""The app that has the command ``ojs_worker``."""

from django.apps import AppConfig


class OJSConfig(AppConfig):
    """``ojs_client.django`` in ``INSTALLED_APPS``."""

    name = "ojs_client.django"
    label = "ojs"  # without it, "django"
