"""Which family of NOPs the processors at hand execute: by their features, then by trial.

    Ftrace(..., nops=x86_nops.NOP_FAMILIES[nop_family.at_hand()])

Files hold NOPs of the first family, whose operands encode which call they replace; in memory that
is known without them. The families in order of preference, which is also that of Linux 2.6.28
(whose ftrace tried them when it started):

- "p6", `nopl`: discarded by today's decoders. Every x86-64 processor has it, but not every older
  one, and Virtual PC executes some of it wrongly without a fault. That is why no 32-bit Linux since
  2.6.27 claims it, and why neither the model of a processor nor the trial is proof.
- "k8", prefixes before a `nop`: what AMD recommends for Athlon, Athlon 64 and Opteron (25112,
  section 4.12). AMD puts at most three before one `nop`, and fills a gap with several; here one has
  as many as the site needs, however slowly they decode, for a site must be one instruction.
- "jump": understood since the 8086, but a branch.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress

from recordmcount import x86_nops

from .trial import executes


def at_hand() -> str:
    """Choose the family for the processors of this machine."""
    cpuinfo = ""
    with suppress(OSError), open("/proc/cpuinfo", errors="replace") as file:
        cpuinfo = file.read()
    return choose(cpuinfo)


def choose(cpuinfo: str, executes: Callable[[Iterable[bytes]], bool] = executes) -> str:
    """Choose the first candidate all of whose NOPs execute, according to `executes`.

    The last one, the jump, is not tried. It is also the answer if `executes` raises OSError.
    """
    *doubtful, last = candidates(cpuinfo)
    with suppress(OSError):
        for family in doubtful:
            if executes(x86_nops.NOP_FAMILIES[family].values()):
                return family
    return last


def candidates(cpuinfo: str) -> list[str]:
    """List the families that every processor in /proc/cpuinfo's text should execute, best first.

    "jump" is always the last, and the only one if the text is something else or not of x86.
    """
    processors = parse(cpuinfo)
    families = []
    if processors and all(map(_has_nopl, processors)):
        families.append("p6")
    if processors and all(map(_has_prefixed_nops, processors)):
        families.append("k8")
    return [*families, "jump"]


def parse(cpuinfo: str) -> list[dict[str, str]]:
    """Parse the fields of each processor in the text of /proc/cpuinfo, by name."""
    processors = []
    for paragraph in cpuinfo.split("\n\n"):
        lines = [line.partition(":") for line in paragraph.splitlines()]
        fields = {name.strip(): value.strip() for name, colon, value in lines if colon}
        if "processor" in fields:
            processors.append(fields)
    return processors


def _has_nopl(processor: dict[str, str]) -> bool:
    """Believe the kernel's flag; or long mode, unless the processor may be emulated."""
    flags = _flags(processor)
    return "nopl" in flags or ("lm" in flags and "hypervisor" not in flags)


def _has_prefixed_nops(processor: dict[str, str]) -> bool:
    """Accept all of x86-64, and AMD's processors from the Athlon (family 6) on."""
    family = processor.get("cpu family", "")
    athlon = processor.get("vendor_id") == "AuthenticAMD" and family.isdecimal() and int(family) > 5
    return athlon or "lm" in _flags(processor)


def _flags(processor: dict[str, str]) -> set[str]:
    return set(processor.get("flags", "").split())
