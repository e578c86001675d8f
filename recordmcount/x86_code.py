"""Code that is written: calls and jumps by their target, and other single instructions.

What calls, jumps and NOPs look like there is known too, for who looks what stands at a site.
"""

from .x86 import ADDRESS_BITS, CALL, CALL_ABS, CALL_GOT, CALL_GOT_386, EM_386, EM_X86_64
from .x86_linked import LINKED_IDLE
from .x86_nops import NOPS, SHORT_JUMP, nop_length

# How to call an address, by the length of the site in bytes.
RELATIVE_CALLS = {
    5: CALL.prefix,  # call target
    6: b"\x67\xe8",  # addr32 call target: the prefix means nothing here, linkers pad with it
}
ABSOLUTE_CALLS = {
    12: CALL_ABS[8],  # movabs $target, %rax; call *%rax
    13: CALL_ABS[2],  # movabs $target, %r10; call *%r10
}
CALL_LENGTHS = {EM_386: {*RELATIVE_CALLS}, EM_X86_64: {*RELATIVE_CALLS, *ABSOLUTE_CALLS}}
JUMP = b"\xe9"  # jmp target
JUMP_LENGTH = 5
INT3 = bytes((0xCC,))  # int3: a breakpoint
SYSCALL = bytes((0x0F, 0x05))  # syscall
LOAD_R11D = bytes((0x41, 0xBB))  # mov $imm32, %r11d
# A function without arguments that returns the processor's time stamp counter, in 64-bit code.
READ_COUNTER = (
    b"\x0f\x31"  # rdtsc
    b"\x48\xc1\xe2\x20"  # shl $0x20,%rdx
    b"\x48\x09\xd0"  # or %rdx,%rax
    b"\xc3"  # ret
)


# What names thread-local data by its distance from %fs: the bytes before disp32, and behind it.
# A SIB byte without base and index says that the distance is not counted from %rip.
FS_ACCESSES = {
    "mov eax, dword ptr fs:[]": (bytes((0x64, 0x8B, 0x04, 0x25)), b""),
    "mov r11d, dword ptr fs:[]": (bytes((0x64, 0x44, 0x8B, 0x1C, 0x25)), b""),
    "mov qword ptr fs:[], rax": (bytes((0x64, 0x48, 0x89, 0x04, 0x25)), b""),
    "mov qword ptr fs:[], 0": (bytes((0x64, 0x48, 0xC7, 0x04, 0x25)), bytes(4)),
}

# 64-bit addresses are canonical, with 48 bits: a jump to another one is a fault. Those that 5-level
# paging adds, for processes that ask for them, are refused as well.
ADDRESSES = {
    EM_386: (range(1 << 32),),
    EM_X86_64: (range(1 << 47), range((1 << 64) - (1 << 47), 1 << 64)),
}


def is_address(machine: int, address: int, size: int = 1) -> bool:
    """Tell whether the machine can have `size` bytes at `address`, without wrapping around."""
    return any(address in part and address + size - 1 in part for part in ADDRESSES[machine])


def call(address: int, target: int, length: int = 5, machine: int = EM_X86_64) -> bytes | None:
    """Spell the call of `target`, `length` bytes long, at `address`; None if out of reach.

    Both addresses are link-time virtual ones, or both run-time ones. Lengths 5 and 6 reach 2 GiB
    from the end of the site; in 32-bit code, whose addresses wrap around, everything. Lengths 12
    and 13 exist in 64-bit code only, reach everything and overwrite %rax or %r10. They are two
    instructions, and a thread may rest between them: whoever changes code that runs has to know
    that none does. What is no address of the machine (see `is_address`) is out of reach, too.
    Raises ValueError for a length that no call has.
    """
    if length in RELATIVE_CALLS:
        return _branch(RELATIVE_CALLS[length], address, target, machine)
    if length not in ABSOLUTE_CALLS or machine != EM_X86_64:
        raise ValueError(f"no call is {length} bytes long")
    if not is_address(machine, address, length) or not is_address(machine, target):
        return None
    form = ABSOLUTE_CALLS[length]
    return form.prefix + target.to_bytes(8, "little") + form.suffix


def call_like(code: bytes, address: int, target: int, machine: int = EM_X86_64) -> bytes | None:
    """Spell it as `call` does, by the register of the call `code`, which is known to be free."""
    made = call(address, target, len(code), machine)
    if made is None or len(code) not in ABSOLUTE_CALLS:
        return made
    return code[:2] + made[2:10] + code[10:]


def relative_target(code: bytes, address: int) -> int | None:
    """Return what `code`, which stands at `address`, calls as `call` spells it; None if nothing."""
    if RELATIVE_CALLS.get(len(code)) != code[:-4]:
        return None
    end = address + len(code)
    return end + int.from_bytes(code[-4:], "little", signed=True) & (1 << 64) - 1


def jump(address: int, target: int, machine: int = EM_X86_64) -> bytes | None:
    """Spell the 5-byte jump to `target` at `address`; None if out of reach as in `call`."""
    return _branch(JUMP, address, target, machine)


def _branch(opcode: bytes, address: int, target: int, machine: int) -> bytes | None:
    """Return the branch whose operand of 4 bytes counts from its end."""
    length = len(opcode) + 4
    if not is_address(machine, address, length) or not is_address(machine, target):
        return None
    distance = target - (address + length)
    if machine == EM_386:  # modulo 1 << 32, as the processor counts
        distance = (distance + (1 << 31)) % (1 << 32) - (1 << 31)
    if not -1 << 31 <= distance < 1 << 31:
        return None
    return opcode + distance.to_bytes(4, "little", signed=True)


def sled_call(address: int, target: int, length: int, machine: int) -> bytes | None:
    """Spell what calls `target` in the place of NOPs that are `length` bytes long; else as `call`.

    Behind the 5 bytes of the call is one NOP: every byte is of a whole instruction.
    """
    made = call(address, target, CALL.length, machine)
    return made + NOPS.get(length - CALL.length, b"") if made else None


def sled_target(code: bytes, address: int, machine: int) -> int | None:
    """Return what `code`, which stands at `address`, calls; None if `sled_call` spells no such."""
    distance = int.from_bytes(code[1 : CALL.length], "little", signed=True)
    target = address + CALL.length + distance & (1 << ADDRESS_BITS[machine]) - 1
    return target if code == sled_call(address, target, len(code), machine) else None


# The first instruction of a site that is none of the NOPs: its first bytes -> its length in bytes.
_FIRST_INSTRUCTIONS = {
    CALL.prefix: 5,
    JUMP: JUMP_LENGTH,
    RELATIVE_CALLS[6]: 6,
    **{form.prefix: 6 for form in (CALL_GOT, *CALL_GOT_386)},  # call *disp32(...)
    **{form.prefix: 10 for form in CALL_ABS},  # movabs
}


def first_instruction(code: bytes) -> int:
    """Measure the first instruction of what stands at a site, in bytes; 0 if it is unknown.

    Known are calls, jumps, and the NOPs of `x86_nops`. What a short jump skips counts as its own.
    """
    branch = code.lstrip(b"".join(LINKED_IDLE))
    if length := _FIRST_INSTRUCTIONS.get(branch[:1]) or _FIRST_INSTRUCTIONS.get(branch[:2]):
        return len(code) - len(branch) + length
    if code.startswith(SHORT_JUMP) and len(code) > 1:
        return 2 + code[1]
    return nop_length(code)
