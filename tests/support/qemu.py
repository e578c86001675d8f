"""Boot a real Linux kernel under QEMU's TCG and run one shell script in it.

The machine has no disk and no network: an initramfs with a static busybox, the
caller's files and the script is built in memory. The kernel's log goes to the
first serial line and the script's output to the second, so neither interrupts
the other. No KVM is used: the test runs wherever QEMU does.
"""

import gzip
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HANG_LIMIT = 300.0
"""Seconds after which a machine is taken to hang (a boot takes about 5)."""

TAIL = 100
"""Lines of each log that a failure shows."""

BUSYBOX = Path("/bin/busybox")  # of Debian's busybox-static

INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
mount -t tracefs none /sys/kernel/tracing
stty -F /dev/ttyS1 raw
sh -e /script >/dev/ttyS1 2>&1
echo "exit status $?" >/dev/ttyS1
poweroff -f
"""


class MachineError(AssertionError):
    """The machine hung or panicked, or the script failed; the message ends with both logs."""


@dataclass(frozen=True)
class Session:
    """What a machine said before it was switched off."""

    kernel_log: str
    """The serial console: everything the kernel printed."""
    output: str
    """Standard output and standard error of the script."""


def run(kernel: Path, script: str, files: Mapping[str, bytes]) -> Session:
    """Boot `kernel` (a bzImage), run `script` in it with `sh -e` and switch it off.

    `files` maps absolute paths in the machine to contents. `/proc`, `/sys` and
    tracefs (on /sys/kernel/tracing) are mounted when the script starts.

    Raises MachineError unless the script ends with status 0 within HANG_LIMIT.
    """
    everything = {"/init": INIT.encode(), "/script": script.encode(), **files}
    everything["/bin/busybox"] = BUSYBOX.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        initramfs = Path(folder, "initramfs.gz")
        initramfs.write_bytes(gzip.compress(cpio(everything), compresslevel=1))
        logs = Path(folder, "kernel.log"), Path(folder, "output")
        failure = _boot(kernel, initramfs, logs)
        session = Session(*(log.read_text(errors="replace").replace("\r", "") for log in logs))
    output, _, status = session.output.rpartition("exit status ")
    if not failure and status != "0\n":
        failure = f"the script ended with status {status}" if status else "the script did not end"
    if failure:
        raise MachineError(
            f"{failure}\n"
            f"--- end of the kernel log\n{tail(session.kernel_log)}\n"
            f"--- end of the script's output\n{tail(session.output)}"
        )
    return Session(session.kernel_log, output)


def _boot(kernel: Path, initramfs: Path, logs: tuple[Path, Path]) -> str:
    """Run the machine until it is switched off; return what went wrong, or ''."""
    for log in logs:
        log.touch()
    # Both processors in one thread: with a thread each, a boot hung while ftrace changed code.
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=single", "-m", "512", "-smp", "2"]
    command += ["-nodefaults", "-display", "none", "-no-reboot"]
    command += ["-kernel", str(kernel), "-initrd", str(initramfs)]
    words = "console=ttyS0 panic=-1"  # a panic ends QEMU: -no-reboot
    # That this machine has other work to do is nothing for the kernel to complain of.
    words += " nowatchdog rcupdate.rcu_cpu_stall_suppress=1"
    command += ["-append", words]
    for log in logs:
        command += ["-serial", f"file:{log}"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=HANG_LIMIT)
    except subprocess.TimeoutExpired:
        return f"the machine was still running after {HANG_LIMIT:.0f} s"
    except subprocess.CalledProcessError as error:
        return f"{error}\n{error.stderr}"
    return ""


def tail(log: str) -> str:
    return "\n".join(log.splitlines()[-TAIL:])


def cpio(files: Mapping[str, bytes]) -> bytes:
    """A cpio archive in the "newc" format (cpio(5)) of executable files and their folders."""
    folders = {str(parent) for path in files for parent in Path(path).parents} - {"/"}
    folders |= {"/dev", "/proc", "/sys"}
    archive = b"".join(_cpio_member(path, 0o040755, b"") for path in sorted(folders))
    archive += b"".join(_cpio_member(path, 0o100755, data) for path, data in files.items())
    return archive + _cpio_member("/TRAILER!!!", 0, b"")


def _cpio_member(path: str, mode: int, data: bytes) -> bytes:
    name = path.lstrip("/").encode() + b"\0"
    # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor,
    # rdevmajor, rdevminor, namesize, check
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    return _pad4(header + name) + _pad4(data)


def _pad4(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
