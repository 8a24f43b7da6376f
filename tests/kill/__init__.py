"""kill -9 of everything that can die, under load, and what must hold afterwards."""
