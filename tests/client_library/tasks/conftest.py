"""A server and fake servers that run the same scenarios with tasks."""

from tests.client_library.fake.conftest import patience, play

__all__ = ["patience", "play"]
