"""Single sign-on of the dashboard: by a trusted proxy, or by OpenID Connect."""
