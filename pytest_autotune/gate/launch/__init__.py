"""One launch of a pinned configuration in a process of its own."""
