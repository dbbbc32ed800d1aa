"""Hooks of the gate."""
