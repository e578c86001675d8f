"""The choice of NOPs, from the texts of /proc/cpuinfo on machines old and new."""

from collections.abc import Collection, Iterable

import pytest

from patcher.cpu import nop_family
from recordmcount import x86_nops


def cpuinfo(vendor: str, family: int, model: str, flags: str) -> str:
    """The text of a machine with one such processor, in the kernel's layout."""
    return (
        f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 1\n"
        f"model name\t: {model}\ncpuid level\t: 1\nflags\t\t: {flags}\nbugs\t\t:\n"
        "power management:\n\n"
    )


I586 = cpuinfo("GenuineIntel", 5, "Pentium 75 - 200", "fpu vme de pse tsc msr mce cx8")
K6 = cpuinfo("AuthenticAMD", 5, "AMD-K6(tm) 3D processor", "fpu vme de tsc msr mce cx8 mmx 3dnow")
ATHLON = cpuinfo("AuthenticAMD", 6, "AMD Athlon(tm) XP 2000+", "fpu tsc cx8 sep cmov mmx sse 3dnow")
C3 = cpuinfo("CentaurHauls", 6, "VIA Ezra", "fpu de tsc msr cx8 mtrr pge mmx 3dnow")
GEODE = cpuinfo(
    "AuthenticAMD", 5, "Geode(TM) Integrated Processor by AMD PCS", "fpu cmov mmx 3dnow"
)
PENTIUM4 = cpuinfo(
    "GenuineIntel", 15, "Intel(R) Pentium(R) 4 CPU 2.40GHz", "fpu cmov mmx sse sse2 ht"
)
OPTERON = cpuinfo(
    "AuthenticAMD", 15, "AMD Opteron(tm) Processor 246", "fpu sse2 nx lm rep_good nopl"
)
XEON = cpuinfo(
    "GenuineIntel", 6, "Intel(R) Xeon(R) Processor", "fpu sse2 nx lm rep_good nopl ssse3"
)
# The kernel below is a 32-bit one, which claims nopl for no processor.
OPTERON_32 = OPTERON.replace(" nopl", "")
VIRTUAL_32 = XEON.replace(" nopl", " hypervisor")
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n\n"


@pytest.mark.parametrize(
    ("machine", "families"),
    [
        (XEON, ["p6", "k8", "jump"]),
        (OPTERON, ["p6", "k8", "jump"]),
        (OPTERON_32, ["p6", "k8", "jump"]),
        (VIRTUAL_32, ["k8", "jump"]),
        (ATHLON, ["k8", "jump"]),
        (PENTIUM4, ["jump"]),
        (C3, ["jump"]),
        (GEODE, ["jump"]),
        (K6, ["jump"]),
        (I586, ["jump"]),
        (ARM, ["jump"]),
        ("", ["jump"]),
        ("flags: nopl lm\n", ["jump"]),
        ("processor: 0\nvendor_id: AuthenticAMD\ncpu family: unknown\n", ["jump"]),
        ("\0\n:\n\n\n: :\nprocessor", ["jump"]),
    ],
    ids=["Xeon", "Opteron", "Opteron, 32-bit", "virtual, 32-bit", "Athlon", "Pentium 4", "VIA C3",
         "Geode", "K6", "Pentium", "ARM", "no text", "no processor", "odd family", "garbage"],
)  # fmt: skip
def test_what_a_machine_should_execute(machine: str, families: list[str]) -> None:
    assert nop_family.candidates(machine) == families


def test_a_family_is_a_candidate_only_if_it_is_one_for_every_processor() -> None:
    assert nop_family.candidates(XEON + XEON) == ["p6", "k8", "jump"]
    assert nop_family.candidates(OPTERON + ATHLON) == ["k8", "jump"]
    assert nop_family.candidates(XEON + C3 + XEON) == ["jump"]


class Processor:
    """Executes the NOPs it is said to, and remembers those that were tried."""

    def __init__(self, *families: str) -> None:
        self.known = {nop for family in families for nop in x86_nops.NOP_FAMILIES[family].values()}
        self.tried: list[Collection[bytes]] = []

    def executes(self, nops: Iterable[bytes]) -> bool:
        self.tried.append(list(nops))
        return self.known.issuperset(self.tried[-1])


def test_the_best_candidate_that_is_executed_is_chosen() -> None:
    assert nop_family.choose(XEON, Processor("p6", "k8", "jump").executes) == "p6"
    assert nop_family.choose(XEON, Processor("k8", "jump").executes) == "k8"
    assert nop_family.choose(XEON, Processor().executes) == "jump"
    assert nop_family.choose(ATHLON, Processor("p6", "k8").executes) == "k8"


@pytest.mark.parametrize("length", range(3, 16))
def test_a_family_of_which_one_nop_fails_is_not_chosen(length: int) -> None:
    """Virtual PC executes some forms of nopl and not others."""
    processor = Processor("p6", "k8")
    processor.known.remove(x86_nops.NOPS[length])
    assert nop_family.choose(XEON, processor.executes) == "k8"


def test_what_should_not_be_executed_is_not_even_tried() -> None:
    processor = Processor("p6", "k8", "jump")
    assert nop_family.choose(C3, processor.executes) == "jump"
    assert processor.tried == []


def test_where_nothing_can_be_tried_it_is_the_jump() -> None:
    def refuse(_: Iterable[bytes]) -> bool:
        raise PermissionError

    assert nop_family.choose(XEON, refuse) == "jump"


def test_the_processor_at_hand_is_asked_and_tried() -> None:
    """Every x86-64 Linux claims nopl, and every x86-64 processor has it."""
    assert nop_family.at_hand() == "p6"
