"""Credentials, scopes and rate limits: the admission of requests."""
