"""Data sets by name or from files, in memory or as a stream of batches."""
