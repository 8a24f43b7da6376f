"""Drawings that the server makes: graphs of workflows, sparklines, and past runs."""
