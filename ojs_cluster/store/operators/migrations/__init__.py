"""The layout of the data, and the migrations from one layout to the next.

The layout is a number. It changes only when an earlier version could misread what a later one
writes. ``layout`` compares the number with what this version can serve, ``migration`` declares a
migration, and ``execution`` carries it out. ``docs/upgrading.md`` has the rules.
"""
