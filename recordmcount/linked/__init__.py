"""The sites of linked files: what their table names, proven by their bytes."""
