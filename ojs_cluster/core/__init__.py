"""The domain: envelope, states, retry policy, durations, ids, errors, event names.

Nothing here does I/O, reads a clock or knows a framework. Time comes in as Unix milliseconds.
"""
