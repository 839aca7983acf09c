"""Certificates as files: their format, and the strict reading of JSON."""
