"""Git revisions, checked out beside the working tree."""
