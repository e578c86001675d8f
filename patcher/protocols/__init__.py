"""How bytes change under running CPUs: three ways, each safe against one enemy more.

`stop_machine` is for code that only CPUs execute that can be stopped, `nmi` also for what an
interrupt executes that cannot be masked, `breakpoint` changes code while everyone runs.
"""
