"""The lock file: pinned configurations and their metrics."""
