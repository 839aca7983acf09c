"""Metrics, logs, traces and drift."""
