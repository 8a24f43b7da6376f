"""What time alone causes: promotion, reaping, retention."""
