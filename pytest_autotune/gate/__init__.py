"""The gate: pinned configurations, and checks that they did not become slower."""
