"""Restoration over HTTP: requests of all users in one engine, as jobs or at once."""
