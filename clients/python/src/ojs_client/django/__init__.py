"""An OJS server as the backend of Django's tasks. ``docs/guide/frameworks.md`` shows its use."""

from ojs_client.django.backend import Backend, job_options
from ojs_client.django.results import Context

__all__ = ["Backend", "Context", "job_options"]
