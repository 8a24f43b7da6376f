"""The packages for Python's index: how they are built, checked and tried."""
