"""Which objects are of a kernel: its tracer is told of some sections only (record.plan).

A kernel frees code, moves it, and runs some where no tracer may be. So an entry for code that it
does not expect is one for memory that may be anybody's by the time it is used.
"""

from recordmcount.elf import object as elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recordmcount.elf.object import Object

# How sections begin that only kernels have (Linux 2.6.28 to 6.12: include/asm-generic/
# vmlinux.lds.h, scripts/module.lds.S, and the assembler macros of arch/x86).
_OF_A_KERNEL = (
    b".modinfo", b".gnu.linkonce.this_module", b"__ksymtab", b"___ksymtab", b"__kcrctab",
    b".export_symbol", b"__param", b".init.", b".exit.", b".initcall", b".exitcall",
    b".con_initcall", b".ref.", b".meminit.", b".memexit.", b".cpuinit.", b".devinit.",
    b".head.text", b".entry.text", b".noinstr.text", b".sched.text", b".spinlock.text",
    b".irqentry.text", b".softirqentry.text", b".kprobes.text", b".cpuidle.text", b".fixup",
    b"__ex_table", b"__bug_table", b"__jump_table", b".altinstr", b".parainstructions",
    b".smp_locks", b".static_call", b".return_sites", b".retpoline_sites", b".call_sites",
    b".ibt_endbr_seal", b".orc_unwind", b".discard.", b".data..", b".bss..", b".rodata..",
    b".printk_index", b"__tracepoints", b"_ftrace_events",
)  # fmt: skip


def is_of_kernel(obj: "Object") -> bool:
    """Tell whether an object has a section that only the objects of a kernel have."""
    names = obj.section_names
    return any(names.startswith(_OF_A_KERNEL, header[elf.SH_NAME]) for header in obj.headers)


def is_named_as_there(section: str) -> bool:
    """Tell whether a text section has a name as kernels give, `.exit.text`.

    Compilers put the function's name behind: `.text.exit`.
    """
    return section.startswith(".") and ".text" in section[1:]
