"""Kinds of memory that hold code: what `patcher.modify` reads, compares and writes."""
