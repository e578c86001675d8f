"""Recording: one object file in, the same file with a table of its call sites out."""
