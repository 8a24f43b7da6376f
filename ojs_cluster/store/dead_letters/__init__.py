"""Dead letters: listing, retry, deletion."""
