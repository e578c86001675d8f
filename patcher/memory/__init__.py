"""Kinds of memory that hold code: what the engines read, compare, write and serialise."""
