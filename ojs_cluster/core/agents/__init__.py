"""Agents: the record that a job keeps of the agent that it runs."""
