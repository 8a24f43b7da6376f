"""The language of the OpenJobSpec conformance suites, parsed strictly.

``jsonpath``, ``matchers``, ``templates`` and ``case`` are pure; ``runner`` uses HTTP. Anything in a
file that these modules do not understand is a ``SuiteError``, because a skipped check could hide a
failure.
"""
