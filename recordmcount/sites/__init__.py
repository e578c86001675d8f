"""Call sites of mcount: where they are, in objects and in linked files, and what stands there."""
