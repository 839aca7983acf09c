"""Request and response bodies of the v1 and v2 protocols."""
