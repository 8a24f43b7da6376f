"""The registry of schemas of job args, as three documents describe it, over one store.

* ``by_uri``: ``/ojs/v1/schemas`` of the SDKs and of ojs-schema-registry.
* ``by_version``: ``/ojs/v1/admin/schemas`` of ojs-job-versioning and the conformance suites.
* ``views``: the members of a schema in their responses.
"""
