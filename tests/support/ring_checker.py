"""Check hundreds of millions of events as fast as they come, by code in C that shares nothing.

All events of a round are sorted by time. Then for each thread the sites it calls in a circle must
come in that order, unless events were lost; sites and callers must be known ones.
"""

import ctypes
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from patcher.trace.clock import Counter as TimeStamps
from patcher.trace.layout import EVENT_SIZE
from tests.support import images
from tests.support.call_storm import CALLERS, CYCLE
from tests.support.traced import Tracing

SOURCE = r"""
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
struct event { uint64_t time, site, caller; uint32_t tid, stack; };
struct site { uint64_t end, caller, caller_end; int64_t number; };
#define TIDS (1 << 22)
#define NONE 255
static const struct site *sites;
static int site_count, cycle;
static struct event *held;
static size_t count, room;
static uint64_t last[TIDS];
static unsigned char next[TIDS];
uint64_t calls[TIDS];
/* What was wrong: unknown site, unknown caller, no such TID, time of a thread backwards, a gap. */
uint64_t wrong[5], backwards;
struct event first_wrong[5];

void begin(const struct site *these, int number, int length) {
    sites = these; site_count = number; cycle = length;
    count = backwards = 0;
    memset(next, NONE, sizeof next);
    memset(last, 0, sizeof last);
    memset(calls, 0, sizeof calls);
    memset(wrong, 0, sizeof wrong);
}
int take(const struct event *some, size_t number) {
    if (count + number > room) {
        room = (count + number) * 2;
        held = realloc(held, room * sizeof *held);
        if (!held) return 0;
    }
    memcpy(held + count, some, number * sizeof *some);
    for (size_t each = 1; each < number; each++) backwards += some[each].time < some[each - 1].time;
    count += number;
    return 1;
}
static int earlier(const void *one, const void *other) {
    uint64_t a = ((const struct event *)one)->time, b = ((const struct event *)other)->time;
    return a < b ? -1 : a > b;
}
static void is_wrong(int what, const struct event *event) {
    if (!wrong[what]++) first_wrong[what] = *event;
}
static void check(const struct event *event) {
    const struct site *site = sites, *behind = sites + site_count;
    while (site < behind && site->end != event->site) site++;
    if (site == behind) { is_wrong(0, event); return; }
    if (event->caller < site->caller || event->caller >= site->caller_end) is_wrong(1, event);
    if (!event->tid || event->tid >= TIDS) { is_wrong(2, event); return; }
    if (event->time < last[event->tid]) is_wrong(3, event);
    last[event->tid] = event->time;
    calls[event->tid]++;
    if (site->number < 0) return;
    unsigned char *expected = &next[event->tid];
    if (*expected != NONE && *expected != site->number) is_wrong(4, event);
    *expected = (site->number + 1) % cycle;
}
/* Check what is older than `horizon`, and hold back the rest. */
void drain(uint64_t horizon) {
    size_t number = 0;
    qsort(held, count, sizeof *held, earlier);
    while (number < count && held[number].time < horizon) check(&held[number++]);
    count -= number;
    memmove(held, held + number, count * sizeof *held);
}
"""
WRONG = ("unknown sites", "unknown callers", "unknown TIDS", "times backwards", "gaps")
MOST = 1 << 20  # events of a processor in a round


class _Site(ctypes.Structure):
    _fields_ = [
        ("end", ctypes.c_uint64), ("caller", ctypes.c_uint64), ("caller_end", ctypes.c_uint64),
        ("number", ctypes.c_int64),
    ]  # fmt: skip


class Result(NamedTuple):
    """How many events there were by TID, how many were lost, and what was wrong, by its name.

    `backwards` counts events of a processor whose time is before that of the one before.
    """

    calls: Counter[int]
    lost: int
    wrong: Mapping[str, int]
    backwards: int


class Checker:
    """Reads the rings of a trace of the storm of calls, and checks all that is in them."""

    def __init__(self, folder: Path, program: Path, trace: Tracing) -> None:
        source, built = folder / "checker.c", folder / "checker.so"
        source.write_text(SOURCE)
        images.tool("gcc", "-O2", "-shared", "-fPIC", source, "-o", built)
        self._code = ctypes.CDLL(str(built))
        self._code.take.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
        self._code.drain.argtypes = [ctypes.c_uint64]
        self._sites = _sites(trace, program)
        self._code.begin(self._sites, len(self._sites), len(CYCLE))
        self._clock = TimeStamps()
        assert trace.session.rings
        self._rings = trace.session.rings
        self.lost = self.events = 0

    def read(self) -> int:
        """Check what there is; how many events that were."""
        horizon, number = self._clock.read(), 0
        for cpu in range(self._rings.shape.cpus):
            content = self._rings.read(cpu, MOST)
            if len(content) == MOST * EVENT_SIZE:
                horizon = min(horizon, int.from_bytes(content[-EVENT_SIZE:][:8], "little"))
            assert self._code.take(content, len(content) // EVENT_SIZE)
            number += len(content) // EVENT_SIZE
            self.lost += self._rings.lost(cpu)
        self._code.drain(horizon)
        self.events += number
        return number

    def result(self) -> Result:
        """Check what is left, when the trace is over."""
        while self.read():
            pass
        self._code.drain((1 << 64) - 1)
        calls = (ctypes.c_uint64 * (1 << 22)).in_dll(self._code, "calls")
        wrong = (ctypes.c_uint64 * len(WRONG)).in_dll(self._code, "wrong")
        backwards = ctypes.c_uint64.in_dll(self._code, "backwards").value
        by_tid = Counter({tid: count for tid, count in enumerate(calls) if count})
        return Result(by_tid, self.lost, dict(zip(WRONG, wrong, strict=True)), backwards)


def _sites(trace: Tracing, program: Path) -> ctypes.Array[_Site]:
    """The sites, where their callers are, and at which place of the circle each is; -1 for none."""
    functions = ranges(program)
    found = []
    for end, site in trace.session.ends.items():
        name = trace.names.function(site.address)
        number = CYCLE.index(name) if name in CYCLE else -1
        found.append(_Site(end, *functions[CALLERS[name]], number))
    return (_Site * len(found))(*found)


def ranges(program: Path) -> dict[str, tuple[int, int]]:
    """Where the functions of a program begin and end, by nm; one that is no PIE is loaded there."""
    found = {}
    words: list[str | Path] = ["nm", "-S", "--defined-only", program]
    for line in subprocess.run(
        words, capture_output=True, check=True, text=True
    ).stdout.splitlines():
        start, *size, kind, name = line.split()
        if size and kind in "tT":
            found[name] = (int(start, 16), int(start, 16) + int(size[0], 16))
    return found
