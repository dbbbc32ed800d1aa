"""Tuning specs: the published schema, loading, the frozen model and its expressions."""
