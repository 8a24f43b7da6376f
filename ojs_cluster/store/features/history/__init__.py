"""What jobs record for their history."""
