"""Results of the gate over time, and where they changed."""
