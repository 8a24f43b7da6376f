"""The dashboard: pages under ``/ui/`` on which people see and drive the whole system.

``app`` registers the pages with Quart, and ``access`` decides who may use them. A page gets a
``visit.Visit``, which calls the API as the user of the page. So a page can do exactly what the API
key of its user can do. To add a page: a module in ``pages``, a template of the same name, a row in
``routes``, and an entry in ``navigation``.
"""
