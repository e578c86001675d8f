"""Compress bytes as distributions compress modules, and kernels their payload.

Not by the product: by Python's own compressors, by libzstd, and LZ4's blocks framed by hand.
"""

import bz2
import gzip
import lzma
import struct
import sys
from collections.abc import Callable

from lz4 import block

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK = 1 << 23  # bytes of a block in LZ4's legacy format


def lz4_legacy(content: bytes) -> bytes:
    """As `lz4 -l`: a magic number, and each block behind its size (lz4_Frame_format.md)."""
    starts = range(0, len(content), BLOCK)
    blocks = [block.compress(content[at : at + BLOCK], store_size=False) for at in starts]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(each)) + each for each in blocks)


def zstd_checked(content: bytes) -> bytes:
    """As the program zstd does: with a checksum."""
    return zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: 1})


def zstd_frame(content: bytes, window_log: int) -> bytes:
    """A frame that does not tell the size of its contents, as of what comes through a pipe."""
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window_log})
    return compressor.compress(content) + compressor.flush()


def zstd_with_dictionary(content: bytes) -> bytes:
    """A frame that only whoever has the dictionary can decompress."""
    dictionary = zstd.train_dict([b"sample %d of many " % n * 20 for n in range(1000)], 1000)
    return zstd.compress(content, zstd_dict=dictionary)


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda content: gzip.compress(content, mtime=0),
    "xz": lzma.compress,
    "zstd": zstd_checked,
    "bzip2": bz2.compress,
    "lzma": lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
    "lz4": lz4_legacy,
}
