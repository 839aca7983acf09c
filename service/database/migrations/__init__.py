"""How the database came to be as it is, one step a file; every server runs what is new before it serves.

Servers of the version before go on while one of the next begins, so a step only adds: what it adds is null or
has a default, and what nobody uses any more goes a version later.
"""
