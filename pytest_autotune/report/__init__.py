"""What people and machines get to read about a study."""
