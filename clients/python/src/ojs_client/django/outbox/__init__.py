"""The app with the tables of the outbox, in the databases that are PostgreSQL."""
