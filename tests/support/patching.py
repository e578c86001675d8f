"""Run `patcher` with the words of its user, and look at what became of a file."""

from pathlib import Path

from tests.support import command, images
from tests.support.images import Built


def patch(*arguments: str | Path) -> str:
    """Run `patcher`, which must succeed; what it printed."""
    done = command.call("patcher", *arguments)
    assert (done.status, done.stderr) == (0, "")
    return done.stdout


def refused(*arguments: str | Path) -> str:
    """Run `patcher`, which must fail for every file and print nothing; its one line for each."""
    done = command.call("patcher", *arguments)
    assert (done.status, done.stdout) == (1, "")
    return done.stderr


def status(image: Path, *options: str) -> str:
    """The count of `patcher status`, for an image without foreign sites."""
    (line,) = patch("status", "-q", *options, image).splitlines()
    return line.removeprefix(f"{image}: ")


def status_of(image: Path, function: str) -> str:
    return status(image, "--functions", function)


def differences(one: bytes, other: bytes) -> set[int]:
    """The file offsets at which two files of one size differ."""
    return {at for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b}


def call_other(built: Built) -> tuple[int, bytes]:
    """Turn the call in `twice` into a genuine call of `odd`: the site's address and old bytes."""
    offset, vaddr, _ = images.section(built.image, ".text")
    site = images.symbol(built.image, "twice")
    at = offset + site - vaddr
    old = built.image.read_bytes()[at : at + 5]
    assert old[0] == 0xE8
    distance = images.symbol(built.image, "odd") - (site + 5)
    images.write(built.image, at, b"\xe8" + distance.to_bytes(4, "little", signed=True))
    return site, old
