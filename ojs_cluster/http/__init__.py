"""The HTTP floor: one route table of framework-free handlers, and the doors that serve it.

Imports are the modules' own: schedulers use some of this floor and start without Quart.
"""
