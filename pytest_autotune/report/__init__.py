"""Results of studies as text, for the terminal."""
