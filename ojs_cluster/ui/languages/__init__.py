"""The languages of the dashboard.

Texts are written in English where they are used, as ``_("Retry")`` in Python and as
``{% trans %}Retry{% endtrans %}`` in templates. A file ``<code>.po`` in this folder has all of them
in another language, and its header says how this language is written.
"""
