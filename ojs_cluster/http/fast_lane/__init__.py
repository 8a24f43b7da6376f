"""The fast lane: the hot routes over HTTP/1.1 on a small loop of our own."""
