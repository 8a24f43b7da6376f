"""What is built on the life of a job. A feature uses the engine, and hardly another feature."""
