"""A command that is run with its sites off, or some of them: from before its first instruction."""
