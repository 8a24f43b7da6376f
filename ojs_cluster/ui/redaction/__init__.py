"""Hide client data that the dashboard must not show (``OJS_UI_REDACT``, ``OJS_UI_REDACTOR``)."""
