"""The living example of ``ojs-cluster dev --demo``: producers and workers over HTTP."""
