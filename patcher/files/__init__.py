"""Sites of files: which there are, what must change to switch them, and the change."""
