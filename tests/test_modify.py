"""Read, compare, write: what is not proven is not written, and every failure has its errno."""

import errno

import pytest

from patcher.errors import CompareError, PatchError, ReadError, WriteError
from patcher.memory.buffer import Buffer
from patcher.modify import Batch, Change, modify_batch, modify_code

CALL, NOP = bytes.fromhex("e811223344"), bytes.fromhex("0f1f440000")
FIRST, SECOND = 0x1000, 0x1010


class Memory(Buffer):
    """A buffer of two calls, in which any address can be made to fault."""

    def __init__(self) -> None:
        super().__init__("memory", FIRST, bytearray(0x20))
        self.unreadable: set[int] = set()
        self.unwritable: set[int] = set()
        self.deaf: set[int] = set()  # a write there is lost
        self.serialises = True
        self.acts: list[str] = []
        for at in (FIRST, SECOND):
            self.text[at - FIRST : at - FIRST + len(CALL)] = CALL

    def read(self, address: int, size: int) -> bytes:
        self.acts.append("read")
        if address in self.unreadable:
            raise ReadError(self.path, "unreadable", address=address)
        return super().read(address, size)

    def write(self, address: int, data: bytes) -> None:
        if address in self.unwritable:
            raise WriteError(self.path, "unwritable", address=address)
        self.acts.append("write")
        if address not in self.deaf:
            super().write(address, data)

    def sync(self) -> None:
        self.acts.append("sync")
        if not self.serialises:
            raise WriteError(self.path, "not serialised")

    @property
    def writes(self) -> int:
        return self.acts.count("write")


def changes(*each: Change) -> Batch:
    return Batch.of(each)


BOTH = changes(Change(SECOND, CALL, NOP, "two+0x4"), Change(FIRST, CALL, NOP, "one+0x0"))


def test_all_sites_that_hold_what_they_must_are_written() -> None:
    memory = Memory()
    modify_batch(memory, BOTH)
    assert memory.read(FIRST, 5) == memory.read(SECOND, 5) == NOP


def test_one_site_is_read_compared_written_serialised_and_read_back() -> None:
    memory = Memory()
    modify_code(memory, FIRST, CALL, NOP)
    assert memory.acts == ["read", "write", "sync", "read"]
    assert memory.read(SECOND, 5) == CALL


def test_what_cannot_be_serialised_is_eperm() -> None:
    memory = Memory()
    memory.serialises = False
    with pytest.raises(WriteError, match="not serialised"):
        modify_code(memory, FIRST, CALL, NOP)


def test_code_outside_of_the_memory_is_efault_and_a_write_there_eperm() -> None:
    memory = Memory()
    for address in (FIRST - 1, FIRST + 0x1C):
        with pytest.raises(ReadError):
            modify_code(memory, address, CALL, NOP)
    assert memory.writes == 0
    for address in (FIRST - 1, FIRST + 0x1C):
        with pytest.raises(WriteError, match="outside of the code"):
            memory.write(address, NOP)
    assert len(memory.text) == 0x20


def test_a_site_that_cannot_be_read_is_efault_and_nothing_is_written() -> None:
    memory = Memory()
    memory.unreadable.add(SECOND)
    with pytest.raises(ReadError) as caught:
        modify_batch(memory, BOTH)
    assert (caught.value.errno, caught.value.address) == (errno.EFAULT, SECOND)
    assert memory.writes == 0


def test_a_site_with_other_bytes_is_einval_and_nothing_is_written() -> None:
    memory = Memory()
    memory.text[SECOND - FIRST + 4] ^= 1  # the last byte of the last site
    with pytest.raises(CompareError) as caught:
        modify_batch(memory, BOTH)
    error = caught.value
    assert (error.errno, error.address, error.symbol) == (errno.EINVAL, SECOND, "two+0x4")
    assert (error.actual, error.expected) == (bytes.fromhex("e811223345"), (CALL,))
    assert str(error) == (
        "memory: two+0x4 (0x1010): e8 11 22 33 45 stands here, not e8 11 22 33 44"
    )
    assert memory.writes == 0


def test_a_site_that_cannot_be_written_is_eperm() -> None:
    memory = Memory()
    memory.unwritable.add(FIRST)
    with pytest.raises(WriteError) as caught:
        modify_batch(memory, BOTH)
    assert (caught.value.errno, caught.value.address) == (errno.EPERM, FIRST)
    assert memory.writes == 0


def test_what_does_not_read_back_as_written_is_eperm() -> None:
    memory = Memory()
    memory.deaf.add(SECOND)
    with pytest.raises(WriteError, match="reads back otherwise") as caught:
        modify_batch(memory, BOTH)
    assert (caught.value.errno, caught.value.address) == (errno.EPERM, SECOND)


@pytest.mark.parametrize("distance", [0, 1, 4])
def test_sites_that_overlap_are_refused(distance: int) -> None:
    memory = Memory()
    inside = Change(FIRST + distance, memory.read(FIRST + distance, 5), NOP)
    with pytest.raises(CompareError, match="overlaps another site"):
        modify_batch(memory, changes(inside, *BOTH))
    assert memory.writes == 0


def test_a_site_may_begin_where_another_ends() -> None:
    memory = Memory()
    memory.text[5:10] = CALL
    modify_batch(memory, changes(Change(FIRST + 5, CALL, NOP), Change(FIRST, CALL, NOP)))
    assert memory.read(FIRST, 10) == NOP + NOP


def test_a_change_of_another_length_is_refused() -> None:
    memory = Memory()
    with pytest.raises(CompareError, match="of another length"):
        modify_code(memory, FIRST, CALL, NOP + b"\x90")
    assert memory.writes == 0


def test_no_changes_are_no_work() -> None:
    memory = Memory()
    modify_batch(memory, changes())
    assert memory.writes == 0


def test_every_error_is_a_patch_error_with_an_errno() -> None:
    kinds = PatchError.__subclasses__()
    assert sorted(errno.errorcode[kind.errno] for kind in kinds) == [
        "EACCES", "EBUSY", "EFAULT", "EINVAL", "EINVAL", "ENODEV", "ENOENT", "ENOENT", "ENOEXEC",
        "EPERM", "ERANGE", "ESRCH",
    ]  # fmt: skip
