"""What is called in a running process: sites become calls of code that writes events."""
