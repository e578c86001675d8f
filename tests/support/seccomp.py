"""Programs with seccomp filters of many kinds, which make one system call from a known place."""

from pathlib import Path

from tests.support.processes import build_program

CALL = r"""
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <link.h>
#include <stddef.h>
#include <sys/prctl.h>
extern const char behind[];  /* the syscall instruction */
/* Returns what the kernel does: a result, or a negative errno. */
__attribute__((noinline, noclone)) static long make_call(const unsigned long *words) {
    register unsigned long r10 __asm__("r10") = words[4];
    register unsigned long r8 __asm__("r8") = words[5];
    register unsigned long r9 __asm__("r9") = words[6];
    long result;
    __asm__ volatile("syscall\n.globl behind\nbehind:"
        : "=a"(result)
        : "a"(words[0]), "D"(words[1]), "S"(words[2]), "d"(words[3]), "r"(r10), "r"(r8), "r"(r9)
        : "rcx", "r11", "memory");
    return result;
}
static int install(const struct sock_filter *filter, unsigned short count) {
    struct sock_fprog program = { count, (struct sock_filter *)filter };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return -1;
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}
"""
# What a filter says to mmap, by its name: `WHAT` is returned for it, and ALLOW for all else.
ANSWERS = {
    "log": "SECCOMP_RET_LOG",
    "allow": "SECCOMP_RET_ALLOW | 0x1234",
    "refuse": "SECCOMP_RET_ERRNO | EPERM",
    "refuse silently": "SECCOMP_RET_ERRNO",
    "refuse oddly": "SECCOMP_RET_ERRNO | 0xffff",
    "trap": "SECCOMP_RET_TRAP",
    "kill the thread": "SECCOMP_RET_KILL_THREAD",
    "kill": "SECCOMP_RET_KILL_PROCESS",
    "trace": "SECCOMP_RET_TRACE",
    "ask": "SECCOMP_RET_USER_NOTIF",
    "unknown": "0x7ffe0000",
    "unknown, too": "0x00010000",
    "unknown and negative": "0xffff0000",
}
# Whole filters by their names.
FILTERS = {
    **{name: f"LOAD(nr), IF(SYS_mmap, 0, 1), RETURN({what}), OK" for name, what in ANSWERS.items()},
    "a list": """
        LOAD(arch), IF(AUDIT_ARCH_X86_64, 1, 0), RETURN(SECCOMP_RET_KILL_PROCESS), LOAD(nr),
        IF(SYS_read, 4, 0), IF(SYS_write, 3, 0), IF(SYS_exit, 2, 0), IF(SYS_munmap, 1, 0),
        RETURN(SECCOMP_RET_KILL_PROCESS), OK""",
    "no code": """
        LOAD(nr), IF(SYS_mmap, 0, 3), LOAD(args[2]), BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 4, 0, 1),
        RETURN(SECCOMP_RET_ERRNO | EACCES), OK""",
    "high addresses": """
        LOAD(nr), IF(SYS_mmap, 0, 3), HIGH(args[0]), IF(0x7fff, 0, 1),
        RETURN(SECCOMP_RET_ERRNO | ENOMEM), OK""",
    "only here": """
        LOAD(nr), IF(SYS_mmap, 0, 4), LOAD(instruction_pointer), HERE(0, 1), OK,
        RETURN(SECCOMP_RET_KILL_PROCESS), OK""",
    "not here": """
        LOAD(nr), IF(SYS_mmap, 0, 4), LOAD(instruction_pointer), HERE(1, 0), OK,
        RETURN(SECCOMP_RET_ERRNO | EPERM), OK""",
}

# target MODE WORD...: MODE is a number of Seccomp: in /proc/PID/status, the words are those of a
# call. `target 2 NAME... -- WORD...` installs the filters of these names, in order. `target 10` and
# on have calls dispatched that neither the C library makes nor, with 13, the program: without a
# selector, with one that lets nothing through, and with one that does. It says where the call is
# made when it is ready, and what came of it when it is told to go on.
_MAIN = r"""
#define LOAD(what) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, what))
#define HIGH(what) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, what) + 4)
#define IF(what, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, what, yes, no)
#define HERE(yes, no) IF((unsigned)(uintptr_t)behind, yes, no)
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, what)
#define OK RETURN(SECCOMP_RET_ALLOW)
static void install_named(const char *name) {
    int failed = 1;
    INSTALL
    if (failed) { perror(name); exit(1); }
}
static volatile char selector;
static int widest(struct dl_phdr_info *object, size_t size, void *range) {
    unsigned long *bounds = range, in_it = bounds[2], end = 0;
    for (int n = 0; n < object->dlpi_phnum; n++) {
        unsigned long last = object->dlpi_phdr[n].p_vaddr + object->dlpi_phdr[n].p_memsz;
        if (object->dlpi_phdr[n].p_type == PT_LOAD && last > end) end = last;
    }
    if (in_it < object->dlpi_addr || in_it >= object->dlpi_addr + end) return 0;
    bounds[0] = object->dlpi_addr;
    bounds[1] = end;
    return 1;
}
static int dispatch(int kind) {
    unsigned long range[3] = { 1, (1ul << 47) - 1, (unsigned long)write };
    if (kind != 13) dl_iterate_phdr(widest, range);
    selector = kind == 12 ? 0 : 1;
    return prctl(59, 1, range[0], range[1], kind == 10 ? NULL : &selector);
}
int main(int argc, char **argv) {
    static char buffer[BUFSIZ];
    unsigned long words[7] = { 0 };
    int next = 2, number = 0;
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    if (atoi(argv[1]) == 1 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT)) return 1;
    if (atoi(argv[1]) >= 10 && dispatch(atoi(argv[1]))) return 1;
    if (atoi(argv[1]) == 2) {
        while (strcmp(argv[next], "--")) install_named(argv[next++]);
        next++;
    }
    while (next < argc) words[number++] = strtoul(argv[next++], NULL, 0);
    ready();
    printf("%lu\n", (unsigned long)behind);
    fflush(stdout);
    until_told();
    printf("%ld\n", make_call(words));
    fflush(stdout);
    syscall(SYS_exit, 0);
}
"""


def build_caller(folder: Path) -> Path:
    """Compile it."""
    install = "".join(
        f"""if (!strcmp(name, "{name}")) {{
            struct sock_filter filter[] = {{ {filter_} }};
            failed = install(filter, sizeof filter / sizeof *filter);
        }}
        """
        for name, filter_ in FILTERS.items()
    )
    return build_program(folder, CALL + _MAIN.replace("INSTALL", install))
