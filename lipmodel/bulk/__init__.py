"""Certified radii of more rows than fit in memory, partition by partition, on one machine or on many."""
