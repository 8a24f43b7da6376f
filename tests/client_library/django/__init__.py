"""Django's tasks on an OJS server."""
