"""The language of the OpenJobSpec conformance suites, read strictly.

`jsonpath`, `matchers`, `templates` and `case` are pure; `runner` speaks HTTP.
Whatever a file says that these modules do not understand is a `SuiteError`:
a check that is skipped in silence is a test that cannot fail.
"""
