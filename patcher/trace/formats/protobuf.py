"""Protocol buffers, encoded: a field is a tag, and a number or a length and bytes."""

from __future__ import annotations

VARINT, LENGTH = 0, 2  # what follows the tag


def varint(number: int) -> bytes:
    """Encode a number: seven bits a byte, the lowest first; all bytes but the last are marked."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def number(field: int, value: int) -> bytes:
    """Encode a field that is a number, not a negative one."""
    return varint(field << 3 | VARINT) + varint(value)


def nested(field: int, *parts: bytes) -> bytes:
    """Encode a field that is bytes, or a message of fields."""
    value = b"".join(parts)
    return varint(field << 3 | LENGTH) + varint(len(value)) + value


def text(field: int, value: str) -> bytes:
    """Encode a field that is a string."""
    return nested(field, value.encode())
