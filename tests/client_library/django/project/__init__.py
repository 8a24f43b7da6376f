"""A Django project, which the tests run as its author would."""
