"""Settings; the server is in the environment."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ojs_client import RetryPolicy

APP = __name__.rpartition(".")[0]
SECRET_KEY = "secret"
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = f"{APP}.urls"
INSTALLED_APPS = [APP, "ojs_client.django", "ojs_client.django.outbox"]
USE_TZ = True
TIME_ZONE = "UTC"  # Django makes it that of the process, in which other tests run
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
FOLDER = Path(os.environ.get("SHOP_FOLDER", "/nonexistent"))
DATABASES = {
    alias: {"ENGINE": "django.db.backends.sqlite3", "NAME": str(FOLDER / f"{alias}.sqlite3")}
    for alias in ("default", "other")
}
if os.environ.get("SHOP_LOGGING"):
    LOGGING = {"version": 1, "disable_existing_loggers": True}
TASKS: dict[str, Any] = {
    "default": {
        "BACKEND": "ojs_client.django.Backend",
        "QUEUES": ["django", "mail"],
        "OPTIONS": {
            "url": os.environ.get("SHOP_OJS_URL", "http://fake-ojs"),
            "job": {"retry": RetryPolicy(max_attempts=2, initial_interval=0.05, jitter=False)},
        },
    },
    "dummy": {"BACKEND": "django.tasks.backends.dummy.DummyBackend", "QUEUES": []},
}
if address := os.environ.get("SHOP_POSTGRES"):
    server = urlsplit(address)
    DATABASES["orders"] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": server.path[1:],
        "USER": str(server.username),
        "HOST": str(server.hostname),
        "PORT": str(server.port),
    }
    TASKS["outbox"] = {
        **TASKS["default"],
        "OPTIONS": {**TASKS["default"]["OPTIONS"], "outbox": "orders"},
    }
