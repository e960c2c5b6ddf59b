"""Lines of a journal that can be read again: a flipped bit is found by the checksum, a line end by what follows.

CRC-32 is linear: a flipped bit changes it by a value that depends on the bit's distance from the end alone.
"""

import re
import zlib
from collections.abc import Iterator

from search.study.journal_format import checksum_end, is_good, split_checksum

_BEGINNING = re.compile(rb'(?=\{"op_code":)')
_NEXT_BYTE = [zlib.crc32(bytes([value])) ^ zlib.crc32(b"\0") for value in range(256)]
_MOST_BYTES = 1_000_000
"""A longer line takes seconds."""


def separated(line: bytes) -> Iterator[bytes]:
    """Give the lines that a damaged one consists of, where a line end was lost or became another character."""
    *whole, last = [piece for piece in _BEGINNING.split(line) if piece] or [line]
    for piece in whole:
        candidates = (piece + b"\n", piece[:-1] + b"\n")
        yield next(filter(is_good, candidates), candidates[0])
    yield last


def corrected(line: bytes) -> bytes | None:
    """Return a line of ours in which one bit was flipped, as it was written; None where it is damaged otherwise."""
    text, told = split_checksum(line)
    if not told:
        return None
    mended = line
    if _distance(line[len(text) :], checksum_end(text)) == 1:
        mended = text + checksum_end(text)
    elif (place := _flipped_bit(text, told)) is not None:
        byte, bit = place
        mended = line[:byte] + bytes([line[byte] ^ 1 << bit]) + line[byte + 1 :]
    return mended if is_good(mended) else None


def _flipped_bit(text: bytes, told: bytes) -> tuple[int, int] | None:
    """Return the place of the byte, and of the bit in it, whose flipping explains another checksum than is told."""
    try:
        difference = zlib.crc32(text) ^ int(told, 16)
    except ValueError:
        return None
    changes = [_NEXT_BYTE[1 << bit] for bit in range(8)]
    for byte in range(len(text) - 1, max(-1, len(text) - _MOST_BYTES), -1):
        if difference in changes:
            return byte, changes.index(difference)
        changes = [_NEXT_BYTE[change & 255] ^ change >> 8 for change in changes]
    return None


def _distance(one: bytes, other: bytes) -> int:
    """Return in how many bits two texts of one length differ."""
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()
