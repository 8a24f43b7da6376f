"""HTTP/1.1 over the library's own connections, and over httpx2 where these do not suffice."""
