"""Forms: what users have typed, what the API says about it, and questions before a change."""
