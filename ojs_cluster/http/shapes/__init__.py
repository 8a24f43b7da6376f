"""The types of request and response bodies that no struct of a handler describes.

The document shows their docstrings, so these address the client.
"""
