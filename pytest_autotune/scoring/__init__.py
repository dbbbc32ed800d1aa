"""From what a trial measured to whether it was good."""
