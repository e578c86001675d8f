"""POSIX ACLs as the kernel has them in attributes: made, and asked who may read a file."""

import os
import struct
from pathlib import Path

USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
NAMED = 4321


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An ACL as the kernel has it in an attribute: (tag, permissions, user) of each entry."""
    words = b"".join(struct.pack("<HHI", *entry) for entry in entries)
    return struct.pack("<I", 2) + words


def granting(user: int, others: int = 0) -> bytes:
    """An ACL by which one user more has these permissions."""
    none = 0xFFFFFFFF
    return acl(
        (USER_OBJ, 6, none), (USER, user, NAMED), (GROUP_OBJ, 4, none), (MASK, 6, none),
        (OTHER, others, none),
    )  # fmt: skip


def readers(file: int | Path) -> set[str]:
    """Who may read a file, of the named user, the group and the others."""
    mode = os.stat(file).st_mode
    found = {"others"} if mode & 0o004 else set()
    if ACCESS not in os.listxattr(file):
        return found | ({"group"} if mode & 0o040 else set()) | ({"named"} & found)
    entries = list(struct.iter_unpack("<HHI", os.getxattr(file, ACCESS)[4:]))
    mask = next(permissions for tag, permissions, _ in entries if tag == MASK)
    for tag, permissions, _ in entries:
        if permissions & mask & 4:
            found |= {{USER: "named", GROUP_OBJ: "group"}.get(tag, "owner")}
    return found - {"owner"}
