"""The HTTP layer: one route table of framework-free handlers, and two entry points that serve it.

This package re-exports nothing: scheduler processes import some of its modules without Quart.
"""
