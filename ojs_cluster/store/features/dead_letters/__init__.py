"""Dead letters: list, retry, delete."""
