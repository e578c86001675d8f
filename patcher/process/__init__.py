"""What Linux tells of a process, and what it lets be done to it."""
