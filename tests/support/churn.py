"""A program that opens and closes libraries all the time.

Where a library was, another one is loaded sometimes, or memory lies that looks as its text did.
What was a site there must not be written to any more: that is what happened in 2008.
"""

import random
import select
import subprocess
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from patcher.errors import CompareError, ModuleError, ReadError, StateError
from patcher.process.mending import CarryOut
from patcher.process.switch import by_breakpoints, in_a_halt, make
from patcher.process.target import Target
from recordmcount.sites.state import State
from tests.support import live, storm
from tests.support.texts import Texts, check, texts

NAMES = ("one", "two")
PROGRAM = """
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
static long again, another, imitations;
struct text { char *start; size_t size; };
QUIET static struct text text_of(void *library) {
    struct link_map *map;
    if (dlinfo(library, RTLD_DI_LINKMAP, &map)) abort();
    ElfW(Ehdr) *header = (ElfW(Ehdr) *)map->l_addr;
    ElfW(Phdr) *each = (ElfW(Phdr) *)(map->l_addr + header->e_phoff);
    while (each->p_type != PT_LOAD || !(each->p_flags & PF_X)) each++;
    size_t size = (each->p_vaddr % 4096 + each->p_memsz + 4095) / 4096 * 4096;
    return (struct text){(char *)(map->l_addr + each->p_vaddr / 4096 * 4096), size};
}
/* Memory of nobody where the text was, with the bytes of the text: it must stay as it is. */
QUIET static void imitate(struct text text, const char *copy) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    char *memory = mmap(text.start, text.size, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory != text.start) abort();
    memcpy(memory, copy, text.size);
    if (mprotect(memory, text.size, PROT_READ | PROT_EXEC)) abort();
    usleep(PAUSE);
    if (memcmp(memory, copy, text.size)) { puts("memory of nobody was written to"); exit(1); }
    munmap(memory, text.size);
    imitations++;
}
QUIET static void one_cycle(int number, char **paths) {
    static char *last;
    static int last_which;
    int which = number * 7 % 3 % 2;
    void *library = dlopen(paths[which], number & 1 ? RTLD_NOW : RTLD_LAZY);
    if (!library) { puts(dlerror()); exit(1); }
    unsigned (*call)(unsigned) = (unsigned (*)(unsigned))dlsym(library, which ? "two" : "one");
    unsigned result = call(3);
    usleep(PAUSE);
    if (call(3) != result) abort();
    struct text text = text_of(library);
    again += text.start == last && which == last_which;
    another += text.start == last && which != last_which;
    last = text.start;
    last_which = which;
    char *copy = number % 4 ? NULL : memcpy(malloc(text.size), text.start, text.size);
    dlclose(library);
    if (copy) imitate(text, copy);
    free(copy);
}
QUIET int main(int count, char **words) {
    int cycles = atoi(words[1]);
    ready();
    for (int number = 0; number < cycles; number++) one_cycle(number, words + 2);
    ready();
    until_told();
    return !again || !another || !imitations;
}
"""


class Churn(NamedTuple):
    """What `build` has built, and the texts that may stand in the process."""

    program: Path
    libraries: Sequence[Path]
    texts: Texts


def build(folder: Path, *, pause: int) -> Churn:
    """Build the program, which pauses so many microseconds in each cycle, and its libraries."""
    seeds = random.Random(5)
    libraries = [live.library(folder, each, storm.functions(each, 50, seeds)) for each in NAMES]
    program = live.build(folder, PROGRAM.replace("PAUSE", str(pause)), link=["-ldl"])
    return Churn(program, libraries, texts([program, *libraries]))


def toggle_until_done(
    process: subprocess.Popen[str], known: Texts, carry_out: CarryOut = in_a_halt
) -> int:
    """Switch all sites off and on until the program is ready again; how often that was done.

    Without a halt that may be refused, as no plan is up to date for long.
    """
    assert process.stdout
    done = 0
    for state in cycle((State.NOP, State.CALL)):
        if select.select([process.stdout], [], [], 0)[0]:
            assert process.stdout.readline() == "ready\n"
            return done
        with Target(process.pid, 30) as target:
            try:
                make(target, (), storm.all_sites, state, carry_out)
                done += 1
            except (CompareError, ModuleError, ReadError, StateError):
                assert carry_out is by_breakpoints
            check(target, known)
    raise AssertionError
