"""Single jobs: read, list, ack, nack, cancel, activate."""
