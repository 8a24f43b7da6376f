"""What the users of the dashboard share: marks on charts."""
