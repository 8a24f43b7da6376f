"""Workers of the client library while every part of an installation fails."""
