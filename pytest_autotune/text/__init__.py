"""Values as text: numbers, units, tables, names."""
