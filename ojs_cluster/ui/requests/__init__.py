"""The requests of browsers: who asks for what, and what they get."""
