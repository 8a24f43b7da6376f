"""Who may call what: API keys, their scopes and queues, the key file, client addresses."""
