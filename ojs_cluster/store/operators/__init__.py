"""The operators' view: metrics, nodes, archive, migrations."""
