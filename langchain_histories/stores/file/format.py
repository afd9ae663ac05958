"""The form of a history file: an array of records in batches, each appended by one write.

    [{"type": "human", ...},
    {"type": "ai", ...}
    ,{"type": "human", ...},
    {"type": "ai", ...}
    ]

A batch begins with `[` or `,`, goes on after a comma and a newline, and ends with a newline alone. An append writes
`,<batch>` over the closing bracket in one call, so complete batches do not change in place and readers need no lock: an
edit replaces the file, or is done as `in_place` says. A batch whose writer was killed has no end: readers leave it out,
and the next append writes over it.

Any other JSON array of records is read as well: see `foreign`.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from contextlib import suppress
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CLOSING = b"]\n"
EMPTY = b"[]"
_BLOCK = 16 * 1024
_OWN_HEAD = re.compile(rb'\[\{ *"(type|data|meta)"')
_BROKEN_HEAD = re.compile(rb"\[\S")
_OWN_LINE = re.compile(rb'\n,?\{[^\n]*"meta": ?\{"v": ?\d')
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


class Line(NamedTuple):
    """A record as the file holds it, and the offset of its first byte."""

    offset: int
    text: bytes

    @property
    def position(self) -> str:
        return f"{self.offset}-{zlib.crc32(self.text):08x}"


def array(lines: Sequence[Line], batch: Sequence[bytes], *, begins: bool = True) -> bytes:
    """Return the content of a new file with these records.

    Args:
        lines: Records that another file has.
        batch: New ones behind them.
        begins: Whether they are the first ones; else this is what comes behind others.
    """
    parts = [b",\n".join(texts) for texts in ([line.text for line in lines], batch) if texts]
    if not begins:
        return b"".join(b"\n," + part for part in parts) + b"\n" + CLOSING
    return b"[" + b"\n,".join(parts) + b"\n" + CLOSING if parts else EMPTY


def end_before(file: IO[bytes], offset: int) -> int:
    """Return where the records before that at an offset end, without what is between them; 0 if there are none."""
    start = max(0, offset - 64)
    data = read_between(file, start, offset).removesuffix(b",").rstrip().removesuffix(b",")
    return start + len(data) if start + len(data) > 1 else 0


def copy_start(file: IO[bytes], length: int, new: IO[bytes]) -> None:
    """Write the first bytes of a file to another one."""
    file.seek(0)
    while length and (block := file.read(min(length, 64 * _BLOCK))):
        new.write(block)
        length -= len(block)


def encode_row(text: str, encoding: str, *, ensure_ascii: bool) -> bytes:
    """Return a record as bytes, with JSON escapes for characters that the encoding does not have."""
    if not ensure_ascii:
        with suppress(UnicodeEncodeError):
            return text.encode(encoding)
    # JSON outside of strings is ASCII, so the escapes of JSON strings are right for all other characters.
    return _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text).encode("ascii")


def read_between(file: IO[bytes], start: int, end: int) -> bytes:
    """Read the bytes from `start` to `end`; less if the file ends before."""
    file.seek(start)
    data = file.read(end - start)
    while len(data) < end - start and (more := file.read(end - start - len(data))):
        data += more
    return data


def blocks_from_end(file: IO[bytes], end: int) -> Iterator[tuple[int, bytes]]:
    """Yield longer and longer blocks that stop at `end`, each with its start; the last one begins at 0."""
    length = _BLOCK
    while length < end:
        yield end - length, read_between(file, end - length, end)
        length *= 4
    yield 0, read_between(file, 0, end)


def is_own(file: IO[bytes]) -> bool:
    """Whether the file begins as one in our form, or its first record is broken and others of ours are behind it."""
    head = read_between(file, 0, 32)
    if _OWN_HEAD.match(head) or not _BROKEN_HEAD.match(head):
        return _OWN_HEAD.match(head) is not None
    return _OWN_LINE.search(read_between(file, 0, file.seek(0, os.SEEK_END))) is not None


def own_end(file: IO[bytes]) -> int | None:
    """Return the end of the last complete batch, or `None` if the file is not in our form.

    Reads the first and the last bytes, and more only where the last batch is not complete.
    """
    size = file.seek(0, os.SEEK_END)
    if not is_own(file):
        return None
    start = max(0, size - 64)
    tail = read_between(file, start, size).rstrip()
    if tail.endswith(b"\n]"):
        return start + len(tail) - 1
    end = torn_end(file, size)
    if end is not None and tail.endswith(b"]"):
        # Either a writer was killed inside the text of a record, or another program wrote this array.
        return None if is_json(read_between(file, 0, size)) else end
    return end


def torn_end(file: IO[bytes], size: int) -> int | None:
    """Return the end of the last complete batch before `size`; `None` if there is none."""
    for start, data in blocks_from_end(file, size):
        newline = len(data)
        while (newline := data.rfind(b"\n", 1, newline)) > 0:
            if data[newline - 1] not in b",] \t\r\n":
                return start + newline + 1
    return None


def write_batch(file: IO[bytes], end: int, batch: Sequence[bytes], *, fsync: bool) -> None:
    """Write a batch over the closing bracket at `end`: the whole of it, or nothing.

    Raises:
        OSError: It could not be written; the file is as it was.
    """
    if file.seek(0, os.SEEK_END) > end + len(CLOSING):
        # Cut an incomplete batch off first, or a reader could see a mixture of it and the new one.
        file.truncate(end)
    try:
        write_at(file, end, b"," + b",\n".join(batch) + b"\n" + CLOSING)
        if fsync:
            getattr(os, "fdatasync", os.fsync)(file.fileno())
    except OSError:
        with suppress(OSError):
            # First the bracket, over bytes that the file already has: a full disk gives no others.
            write_at(file, end, CLOSING)
            file.truncate(end + len(CLOSING))
        raise


def write_at(file: IO[bytes], start: int, data: bytes) -> None:
    """Write all of `data`. A full disk takes a part of it before it raises."""
    file.seek(start)
    while data:
        data = data[file.write(data) :]


def split_lines(data: bytes, start: int) -> list[Line]:
    """Return the records of complete lines; the first line is at the offset `start`."""
    lines = []
    for line in data.split(b"\n"):
        lead = 1 if start == 0 or line[:1] == b"," else 0
        text = line[lead:].rstrip().removesuffix(b",")
        if text:
            lines.append(Line(start + lead, text))
        start += len(line) + 1
    return lines


def lines_between(file: IO[bytes], start: int, end: int) -> list[Line]:
    """Return the records from the offset `start` on."""
    return split_lines(read_between(file, start, end), start) if start < end else []


def last_lines(file: IO[bytes], end: int, last: int) -> list[Line]:
    """Return the last n records; reads little more than them."""
    lines: list[Line] = []
    for start, data in blocks_from_end(file, end):
        cut = data.find(b"\n") + 1 if start else 0
        lines = split_lines(data[cut:], start + cut)
        if len(lines) >= last:
            break
    return lines[-last:]


def first_lines(file: IO[bytes], start: int, end: int, first: int) -> list[Line]:
    """Return the first n records from the offset `start` on; reads little more than them."""
    lines: list[Line] = []
    for block in blocks_of_lines(file, start, end, 4 * _BLOCK):
        lines += block
        if len(lines) >= first:
            break
    return lines[:first]


def count_lines(file: IO[bytes], end: int) -> int:
    """Return the number of records."""
    return sum(map(len, blocks_of_lines(file, 0, end, 64 * _BLOCK)))


def blocks_of_lines(file: IO[bytes], start: int, end: int, size: int) -> Iterator[list[Line]]:
    """Yield the records between two offsets, as many at once as about `size` bytes hold."""
    length = size
    while start < end and (block := read_between(file, start, min(end, start + length))):
        complete = block.rfind(b"\n") + 1 if start + len(block) < end else len(block)
        if not complete and len(block) == length:
            # A single record is longer than the block.
            length *= 2
            continue
        complete = complete or len(block)
        yield split_lines(block[:complete], start)
        start += complete
        length = size


def lines_after(lines: Sequence[Line], after: str) -> Sequence[Line]:
    """Return the records after a position, or all if its record is not there.

    A record has moved when others before it were removed. Then its checksum identifies it; of equal records the first
    one counts, so that the caller misses none.
    """
    checksum = after.partition("-")[2]
    for number, line in enumerate(lines):
        if line.position == after:
            return lines[number + 1 :]
    for number, line in enumerate(lines):
        if line.position.partition("-")[2] == checksum:
            return lines[number + 1 :]
    return lines


def doomed_offsets(lines: Sequence[Line], positions: Sequence[str]) -> set[int]:
    """Return the offsets of the records at these positions, also where they have moved since."""
    exact = {line.position: line.offset for line in lines}
    doomed = {exact[position] for position in positions if position in exact}
    for position in positions:
        if position not in exact:
            checksum = position.partition("-")[2]
            moved = (line.offset for line in lines if line.position.partition("-")[2] == checksum)
            doomed.update([offset for offset in moved if offset not in doomed][:1])
    return doomed


def is_json(data: bytes) -> bool:
    """Whether this is a JSON document, in whatever encoding that contains ASCII."""
    try:
        json.loads(data.decode("latin-1"))
    except ValueError:
        return False
    except RecursionError:
        pass
    return True
