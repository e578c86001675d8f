"""The sites of relocatable objects, as they are: calls, NOPs and table entries."""
