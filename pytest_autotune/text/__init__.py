"""How values are written: numbers, units, tables, names."""
