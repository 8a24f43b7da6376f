"""The HTTP layer: one route table of framework-free handlers, and the doors that serve it.

Imports are the modules' own: schedulers use some of this layer and start without Quart.
"""
