"""The problems that the overview lists, each with what to do about it."""
