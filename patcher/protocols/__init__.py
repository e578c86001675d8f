"""Protocols that change code while CPUs execute it."""
