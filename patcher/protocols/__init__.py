"""How bytes change under running CPUs: three ways, each safe against one enemy more.

`stop_machine` is for code that only CPUs execute that can be stopped, `nmi` also for what an
interrupt executes that cannot be masked, `breakpoint` changes code while everyone runs. Each module
has a `modify(machine, batch)`; `partial(modify, machine)` is what everybody else takes.

All of them change a site as one instruction. Where what stands there is a call of two (of 12 or 13
bytes, or `nop; call`), a CPU may be between them: they then change nothing (`inside`).

For one writer at a time: who changes one machine from several threads needs a lock around `modify`.
"""
