"""The lock file: pinned configurations and what was measured of them."""
