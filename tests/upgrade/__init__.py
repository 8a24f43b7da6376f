"""Tests of two versions on the same data: the one of this tree, and the previous one.

``previous`` names the commit of the previous version.
"""
