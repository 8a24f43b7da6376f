"""The subcommands of ``ojs-cluster``, one module each."""
