"""Results of trials as a table: recorded once, replayed on any machine."""
