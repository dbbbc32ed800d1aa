"""The gate: pinned configurations, and whether they got slower."""
