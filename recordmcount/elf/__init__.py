"""ELF files as they are: headers, segments, symbols, notes, archives; and what is no ELF file."""
