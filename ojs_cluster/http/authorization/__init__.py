"""What a request may reach: queues, tenants, and in whose name it acts."""
