"""A study: its plan, its trials, and where they are kept."""
