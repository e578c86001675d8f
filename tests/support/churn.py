"""A program that opens and closes libraries all the time, and a look at all text of a process.

Where a library was, another one is loaded sometimes, or memory lies that looks as its text did.
What was a site there must not be written to any more: that is what happened in 2008.
"""

import random
import select
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from patcher.process.switch import make
from patcher.process.target import Target
from recordmcount.sites.state import State
from tests.support import command, live, storm

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
    """What `build` has built, and for each file that is mapped the texts that may stand there."""

    program: Path
    libraries: Sequence[Path]
    texts: Mapping[str, Sequence[bytes]]


def build(folder: Path, *, pause: int) -> Churn:
    """Build the program, which pauses so many microseconds in each cycle, and its libraries."""
    seeds = random.Random(5)
    libraries = [live.library(folder, each, storm.functions(each, 50, seeds)) for each in NAMES]
    program = live.build(folder, PROGRAM.replace("PAUSE", str(pause)), link=["-ldl"])
    texts = {str(path): both_texts(path) for path in (program, *libraries)}
    return Churn(program, libraries, texts)


def both_texts(path: Path) -> list[bytes]:
    """The file as it is, with its calls, and as it is with all of its sites off."""
    off = path.with_suffix(".off")
    done = command.run("patcher", "nop", "-q", "-o", off, path)
    assert (done.status, done.stderr) == (0, ""), done
    return [path.read_bytes(), off.read_bytes()]


def toggle_until_done(process: subprocess.Popen[str], texts: Mapping[str, Sequence[bytes]]) -> int:
    """Switch all sites off and on until the program is ready again; how often that was done."""
    assert process.stdout
    for number, state in enumerate(cycle((State.NOP, State.CALL))):
        if select.select([process.stdout], [], [], 0)[0]:
            assert process.stdout.readline() == "ready\n"
            return number
        with Target(process.pid, 30) as target:
            make(target, (), storm.all_sites, state, dry_run=False)
            target.machine.stop()
            check_text(target, texts)
    raise AssertionError


def check_text(target: Target, texts: Mapping[str, Sequence[bytes]]) -> dict[str, int]:
    """Check all executable mappings of a process, which must be halted.

    Those of the files in `texts` must be of one of the two, those of others as in their files.
    Returns which of its texts each file in `texts` has.
    """
    found = {}
    for start, end, offset, path in _executable(target):
        size = end - start
        stands = target.machine.memory.read(start, size)
        may_be = texts.get(path) or [Path(path).read_bytes()]
        like = [content[offset : offset + size].ljust(size, b"\0") for content in may_be]
        assert stands in like, f"{path} at {start:#x}"
        if path in texts:
            found[path] = like.index(stands)
    return found


def _executable(target: Target) -> Iterator[tuple[int, int, int, str]]:
    """Start, end, file offset and path of all executable mappings of files."""
    for line in target.proc.read("maps").decode().splitlines():
        where, protection, offset, _, inode, *path = line.split(maxsplit=5)
        if "x" in protection and inode != "0":
            start, end = (int(each, 16) for each in where.split("-"))
            yield start, end, int(offset, 16), path[0]
