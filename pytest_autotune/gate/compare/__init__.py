"""Comparing launches: a paired test, or the stored baseline."""
