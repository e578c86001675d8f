"""Record the call sites of mcount and __fentry__ in x86 ELF objects at build time."""

__version__ = "0.1.0"
