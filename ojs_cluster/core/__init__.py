"""The rules of OpenJobSpec, and of this server's own API, without I/O.

No module here reads a clock or knows a framework. Callers pass the time as Unix milliseconds.
"""
