"""The HTTP floor: one route table of framework-free handlers, and the doors that serve it."""

from __future__ import annotations

from ojs_cluster.http.app import App, HttpSettings
from ojs_cluster.http.quart_app import create_quart_app

__all__ = ["App", "HttpSettings", "create_quart_app"]
