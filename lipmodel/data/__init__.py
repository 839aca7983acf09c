"""Load data sets by name or from files, whole or as a stream of batches."""
