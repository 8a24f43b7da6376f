"""Attacks, each with what must hold against it."""
