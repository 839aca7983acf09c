"""Migrations of the database, one file each; every server runs the missing ones before it serves.

Servers of the previous version continue while the next version starts, so a migration only adds columns,
nullable or with a default, and tables; unused ones are removed one version later.
"""
