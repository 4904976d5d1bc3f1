"""MPEG layer 3 frames: find where the first of several joined MP3 files ends."""

from __future__ import annotations

import mmap

_RATES = (44100, 48000, 32000)
_LAYER_3 = (
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
"""Bit rates in kilobits per second of MPEG 1, and of MPEG 2 and 2.5."""


def is_mpeg(head: bytes) -> bool:
    """Whether these are the first bytes of an MPEG layer 3 file."""
    return head[:3] == b"ID3" or _frame_size(head[:4]) > 0


def _frame_size(header: bytes) -> int:
    """Size in bytes of the MPEG layer 3 frame with this header; 0 if it is not one."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, rate, bits = header[1] >> 3 & 3, header[2] >> 2 & 3, header[2] >> 4
    if version == 1 or rate == 3 or bits in (0, 15):
        return 0
    hertz = _RATES[rate] >> (0 if version == 3 else 1 if version == 2 else 2)
    samples = 144 if version == 3 else 72
    return samples * 1000 * _LAYER_3[version != 3][bits - 1] // hertz + (header[2] >> 1 & 1)


def mpeg_end(content: mmap.mmap, start: int) -> int:
    """Start of the next MP3 file: at a tag, at a frame that declares a length, or after the declared frames."""
    position = _after_tag(content, start)
    declared, frames, declared_end = 0, -1, 0
    while position < len(content):
        size = _frame_size(content[position : position + 4])
        if not size:
            found = _next_frame(content, position)
            tag = content.find(b"ID3", position, found)
            if frames >= 0 and tag >= 0 and _after_tag(content, tag) <= found < len(content):
                return tag
            position = found
            continue
        length = _declared_frames(content[position : position + size])
        if frames < 0:
            declared, frames = length or 0, 1 if length is None else 0
        elif length is not None:
            return position
        else:
            frames += 1
            if declared and frames > declared + 2:
                return declared_end
        position += size
        if frames == declared:
            declared_end = position
    return len(content)


def _after_tag(content: mmap.mmap, start: int) -> int:
    head = content[start : start + 10]
    if head[:3] != b"ID3" or len(head) < 10:
        return start
    return (
        start + 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    )


def _next_frame(content: mmap.mmap, position: int) -> int:
    """Position of the next two consecutive frames."""
    while (position := content.find(b"\xff", position + 1)) >= 0:
        size = _frame_size(content[position : position + 4])
        if size and (
            position + size >= len(content) or _frame_size(content[position + size : position + size + 4])
        ):
            return position
    return len(content)


def _declared_frames(frame: bytes) -> int | None:
    """Number of frames that an info frame (Xing, LAME, Fraunhofer) declares; 0 if unknown; None for other frames."""
    mono = frame[3] >> 6 == 3
    side = (17 if mono else 32) if frame[1] >> 3 & 3 == 3 else (9 if mono else 17)
    if frame[4 + side : 8 + side] in (b"Xing", b"Info"):
        flags = int.from_bytes(frame[8 + side : 12 + side], "big")
        return int.from_bytes(frame[12 + side : 16 + side], "big") if flags & 1 else 0
    if frame[36:40] == b"VBRI":
        return int.from_bytes(frame[50:54], "big")
    return None
