"""Structure of audio files: where they really end, and errors in their headers.

libsndfile trusts headers. Of two files joined into one it reads only the first, and of a recording whose recorder was
killed it reads nothing. :func:`inspect` looks at the content before it is decoded.
"""

from __future__ import annotations

import math
import mmap
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from typing import Literal

from unmingle.mpeg_frames import is_mpeg, mpeg_end

_TRAILER = 1024
"""Fewer bytes behind the audio give no warning: they are tags or padding."""
_STOPPED = "does not say how long it is, perhaps because its recorder was stopped; it was read to its end"


@dataclass(frozen=True)
class Piece:
    """One of the files that were joined into one; in most cases the whole file."""

    start: int
    end: int
    patches: tuple[tuple[int, bytes], ...] = ()
    """Corrections of the header: positions in the file, and the correct bytes."""


@dataclass(frozen=True)
class Layout:
    """The structure of a file."""

    pieces: tuple[Piece, ...]
    warnings: tuple[str, ...] = ()
    """Problems of the file, without its name: ``ends early``."""


def inspect(file: FileIO) -> Layout:
    """Inspect the content of an open file. Its position may change.

    A file of an unknown container is one piece.
    """
    size = file.seek(0, os.SEEK_END)
    pieces: list[Piece] = []
    warnings: list[str] = []
    start, magic = 0, b""
    while start < size:
        file.seek(start)
        head = file.read(64)
        kind = b"ID3" if is_mpeg(head) else head[4:8] if head[4:8] == b"ftyp" else head[:4]
        if pieces and kind != magic:
            if size - start > _TRAILER:
                warnings.append(f"has {size - start} bytes after its audio, which were not read")
            break
        piece, found = _piece(file, head, start, size)
        pieces.append(piece)
        warnings += found
        start, magic = piece.end, kind
    if len(pieces) > 1:
        warnings.append(
            f"has {len(pieces)} recordings joined into one file; they were read one after the other"
        )
    return Layout(tuple(pieces) or (Piece(0, size),), tuple(dict.fromkeys(warnings)))


def _piece(file: FileIO, head: bytes, start: int, size: int) -> tuple[Piece, list[str]]:
    if (kind := _kind_of(head)) is not None:
        return _chunked(file, kind, start, size)
    if head[:4] == b"RIFF":
        whole = start + 8 + int.from_bytes(head[4:8], "little") <= size
        return Piece(start, size), [] if whole else ["ends early"]
    if head[4:8] == b"ftyp":
        return _boxes(file, start, size)
    if head[:4] == b".snd":
        return _counted(start, int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big"), 8, size)
    if head[:7] == b"NIST_1A":
        file.seek(start)
        return _sphere(file.read(4096), start, size)
    if head[:4] in (b"OggS", b"fLaC") or is_mpeg(head):
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if head[:4] == b"OggS":
                return _ogg(content, start)
            if head[:4] == b"fLaC":
                end = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22").search(content, start + 4)
                return Piece(start, end.start() if end else size), []
            return Piece(start, mpeg_end(content, start)), []
    return Piece(start, size), []


@dataclass(frozen=True)
class _Chunks:
    """A format of chunks, each with a name and a length."""

    first: int
    """Position of the first chunk."""
    name: int
    length: int
    """Bytes of the length field of a chunk; ``name``: bytes of its name."""
    order: Literal["little", "big"]
    whole: bool
    """Whether the length includes the name and length fields."""
    align: int
    data: bytes


_RIFF = _Chunks(12, 4, 4, "little", False, 2, b"data")
_KINDS = {
    b"RIFF": _RIFF,
    b"RF64": _RIFF,
    b"RIFX": _Chunks(12, 4, 4, "big", False, 2, b"data"),
    b"FORM": _Chunks(12, 4, 4, "big", False, 2, b"SSND"),
    b"riff": _Chunks(40, 16, 8, "little", True, 8, b"data"),
    b"caff": _Chunks(8, 4, 8, "big", False, 1, b"data"),
}


def _kind_of(head: bytes) -> _Chunks | None:
    if head[:4] == b"RIFF" and head[8:12] != b"WAVE":
        return None  # A video or a picture.
    return _KINDS.get(head[:4])


def _chunked(file: FileIO, kind: _Chunks, start: int, size: int) -> tuple[Piece, list[str]]:
    """Read the chunks up to the end of the file or the start of another file."""
    file.seek(start)
    magic = file.read(4)
    position, width = start + kind.first, kind.name + kind.length
    place_of_size, sized = 0, None
    patches: list[tuple[int, bytes]] = []
    warnings: list[str] = []
    while position + width <= size:
        file.seek(position)
        header = file.read(width)
        if position > start + kind.first and header[:4] == magic:
            return Piece(start, position, tuple(patches)), warnings
        name = header[: kind.name]
        length = int.from_bytes(header[kind.name :], kind.order)
        begin, place = position + width, position + kind.name
        if kind.whole:
            length -= width
        if magic == b"RF64" and name == b"ds64":
            file.seek(begin + 8)
            place_of_size, sized = begin + 8, int.from_bytes(file.read(8), "little")
        if name.startswith(kind.data):
            bytes_of_size = kind.length
            if sized is not None and length == 0xFFFFFFFF:
                length, place, bytes_of_size = sized, place_of_size, 8
            rest = size - begin
            if rest and _length_is_unknown(file, kind, length, begin, rest, bytes_of_size):
                warnings.append(_STOPPED)
                stated = rest + width if kind.whole else rest
                most = 256**bytes_of_size - 1
                patches.append((place, min(stated, most).to_bytes(bytes_of_size, kind.order)))
                return Piece(start, size, tuple(patches)), warnings
            if length > rest:
                right = rest.to_bytes(kind.length, kind.order)
                # libsndfile corrects this itself, except for CAF.
                return Piece(start, size, ((place, right),) if magic == b"caff" else ()), ["ends early"]
        if length < 0:
            break  # A chunk cannot be shorter than its own header: the rest is padding or damaged.
        position = begin + length
        position += -(position - start) % kind.align
    return Piece(start, size, tuple(patches)), warnings


def _length_is_unknown(file: FileIO, kind: _Chunks, length: int, begin: int, rest: int, width: int) -> bool:
    """Whether the stated length is not real: 0, a value for "unknown", or an end in the middle of the audio."""
    if length < 0 or length >= 256**width - (1 << 16):
        return True
    if width == 4 and length > rest and (length & 0xFFFFF000) in (0x7FFFF000, 0x80000000):
        return True
    if length >= rest:
        return False
    end = begin + length + (-(begin + length) % kind.align if kind.align < 8 else -length % 8)
    if end >= begin + rest:
        return False
    file.seek(end)
    behind = file.read(4)
    # The name of a chunk has four letters, digits or spaces. Samples almost never look like that.
    return re.fullmatch(rb"[A-Za-z0-9_ .+-]{1,4}", behind) is None and (
        length == 0 or behind.strip(b"\0") != b""
    )


def _counted(start: int, offset: int, length: int, width: int, size: int) -> tuple[Piece, list[str]]:
    """A header with the length, then audio: AU of Sun and NeXT."""
    begin = start + offset
    if length == 0xFFFFFFFF or begin >= size:
        return Piece(start, size), []  # The format allows "unknown" for streams.
    if length == 0:
        return (
            Piece(start, size, ((start + width, b"\xff\xff\xff\xff"),)),
            [_STOPPED],
        )
    if begin + length > size:
        return Piece(start, size), ["ends early"]
    return Piece(start, begin + length), []


def _boxes(file: FileIO, start: int, size: int) -> tuple[Piece, list[str]]:
    """MP4 and similar: boxes with a length and a name, up to the first box of another file."""
    position = start
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        if position > start and header[4:8] == b"ftyp":
            return Piece(start, position), []
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:], "big")
        if length < 8:
            break  # 0 means: up to the end of the file.
        position += length
    return Piece(start, size), ["ends early"] if position > size else []


def _sphere(head: bytes, start: int, size: int) -> tuple[Piece, list[str]]:
    """NIST SPHERE: the header is text and contains the number of samples."""
    numbers = {name: int(value) for name, value in re.findall(rb"(\w+) -i (\d{1,18})", head)}
    counts = [numbers.get(name) for name in (b"sample_count", b"channel_count", b"sample_n_bytes")]
    header = head[8:16].strip()
    if None in counts or not header.isdigit() or b"embedded" in head:
        return Piece(start, size), []
    end = start + int(header) + math.prod(count or 0 for count in counts)
    if end <= start:
        return Piece(start, size), []
    return (Piece(start, size), ["ends early"]) if end > size else (Piece(start, end), [])


def _ogg(content: mmap.mmap, start: int) -> tuple[Piece, list[str]]:
    """Ogg: pages up to the next start of a stream. The last page of a stream is marked."""
    position, began, last, flags = start, True, start, 0
    while (position := content.find(b"OggS", position)) >= 0:
        header = content[position : position + 27]
        if len(header) < 27 or header[4] != 0:
            position += 4
            continue
        first = bool(header[5] & 2)
        if first and not began:
            return Piece(start, position), [] if flags & 4 else ["ends early"]
        began, flags = first, header[5]
        sizes = content[position + 27 : position + 27 + header[26]]
        position += 27 + header[26] + sum(sizes)
        last = position
    whole = flags & 4 and last <= len(content)
    return Piece(start, len(content)), [] if whole else ["ends early"]


class View:
    """A piece of an open file as a separate file, with its header corrected."""

    def __init__(self, descriptor: int, piece: Piece) -> None:
        self._descriptor, self._piece, self._place = descriptor, piece, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        size = self._piece.end - self._piece.start
        self._place = offset + (0, self._place, size)[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1) -> bytes:
        place = self._piece.start + self._place
        rest = max(0, self._piece.end - place)
        os.lseek(self._descriptor, place, os.SEEK_SET)
        content = bytearray(os.read(self._descriptor, rest if size < 0 else min(size, rest)))
        for where, right in self._piece.patches:
            for offset, byte in enumerate(right):
                if 0 <= where + offset - place < len(content):
                    content[where + offset - place] = byte
        self._place += len(content)
        return bytes(content)

    def write(self, content: bytes) -> int:
        raise OSError("read only")


def views(descriptor: int, layout: Layout) -> Iterator[View]:
    """Each piece of a file as a separate file."""
    for piece in layout.pieces:
        yield View(descriptor, piece)
