"""The HTTP server: connections, the fast path, instrumentation."""
