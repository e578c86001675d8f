"""The verbs of patcher: each declares its command line, and executes what that asks for."""
