"""Wire types of the routes."""
