"""Who speaks when: the speech segments of every speaker, and their file formats."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unmingle.errors import UnmingleError
from unmingle.separation.order import speaking
from unmingle.separation.windows import Tracks
from unmingle.temporary import check_target, check_writable, replace_files

_SHORTEST_PAUSE = 0.3
"""Minimum length of a pause in seconds. Shorter ones are part of the speech."""
_SHORTEST_SPEECH = 0.15
"""Minimum length of speech in seconds. Shorter sounds are ignored."""
FORMATS = ("json", "rttm", "png")
_MOST_PICTURED = 100
"""Recordings in one picture."""


@dataclass(frozen=True)
class Segment:
    """One speech segment of one speaker, in seconds."""

    speaker: int
    """From 1."""
    start: float
    end: float


def timeline(tracks: Tracks, seconds: float) -> list[Segment]:
    """All speech segments, sorted by start. Those of different speakers may overlap.

    Args:
        tracks: of the recording.
        seconds: length of the recording, which the last frame may exceed.
    """
    speaks, piece_seconds = speaking(tracks.power, tracks.frame_seconds)
    segments = []
    for number, row in enumerate(speaks, start=1):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        joined: list[list[float]] = []
        for start, end in np.minimum(edges.reshape(-1, 2) * piece_seconds, seconds).tolist():
            if joined and start - joined[-1][1] < _SHORTEST_PAUSE:
                joined[-1][1] = end
            else:
                joined.append([start, end])
        segments += [
            Segment(number, round(start, 3), round(end, 3))
            for start, end in joined
            if end - start >= _SHORTEST_SPEECH
        ]
    return sorted(segments, key=lambda segment: (segment.start, segment.speaker))


def check_timeline_path(path: Path, *, overwrite: bool = True) -> None:
    """Check that a timeline can be written to a path.

    Raises:
        UnmingleError: the suffix is not a format of timelines, matplotlib is missing for a picture, the folder cannot
            be written, or the file exists and ``overwrite`` is false.
    """
    if path.suffix.lower().lstrip(".") not in FORMATS:
        raise UnmingleError(f"A timeline is written as .json, .rttm or .png; got {path.name!r}.")
    if path.suffix.lower() == ".png":
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise UnmingleError(
                "A picture of the timeline needs matplotlib; install with: pip install 'unmingle[evaluate]'"
            ) from error
    if path.exists() and not overwrite:
        raise UnmingleError(f"{path} exists; add --overwrite, or name another file with --timeline.")
    check_target(path)
    check_writable(path.parent)


def write_timelines(path: Path, recordings: Sequence[tuple[str, float, Sequence[Segment]]]) -> None:
    """Write the timelines of one or several recordings, in the format of the suffix of ``path``.

    Args:
        path: ends in .json, .rttm (NIST's rich transcription) or .png (a picture).
        recordings: name, seconds and speech segments of each.

    Raises:
        UnmingleError: the suffix is unknown, there are too many recordings for a picture, or the file cannot be
            written.
    """
    check_timeline_path(path)
    kind = path.suffix.lower()
    if kind == ".json":
        content = _json(recordings).encode()
    elif kind == ".rttm":
        # A file's name need not be Unicode.
        content = _rttm(recordings).encode(errors="backslashreplace")
    elif len(recordings) > _MOST_PICTURED:
        raise UnmingleError(
            f"A picture can show {_MOST_PICTURED} recordings, not {len(recordings)}; write a .json or .rttm file."
        )
    else:
        content = _picture(recordings)
    replace_files([(path, content)])


def _json(recordings: Sequence[tuple[str, float, Sequence[Segment]]]) -> str:
    found = [
        {
            "recording": name,
            "seconds": round(seconds, 3),
            "speech": [
                {"speaker": segment.speaker, "start": segment.start, "end": segment.end}
                for segment in segments
            ],
        }
        for name, seconds, segments in recordings
    ]
    return json.dumps(found, indent=2) + "\n"


def _rttm(recordings: Sequence[tuple[str, float, Sequence[Segment]]]) -> str:
    lines = []
    stems = Counter(Path(name).stem for name, *_ in recordings)
    for name, _, segments in recordings:
        stem = Path(name).stem
        # Recordings of one name in several folders are told apart by their folders.
        known = stem if stems[stem] == 1 else name
        # Fields are separated by spaces, so a file's name must not contain any.
        file_id = "_".join(known.split()) or "recording"
        lines += [
            f"SPEAKER {file_id} 1 {segment.start:.3f} {segment.end - segment.start:.3f} <NA> <NA> "
            f"speaker{segment.speaker} <NA> <NA>\n"
            for segment in segments
        ]
    return "".join(lines)


def _picture(recordings: Sequence[tuple[str, float, Sequence[Segment]]]) -> bytes:
    import io

    from matplotlib.figure import Figure

    rows = [max((segment.speaker for segment in segments), default=1) for _, _, segments in recordings]
    figure = Figure(figsize=(10, 0.8 * len(rows) + 0.4 * sum(rows)), layout="constrained")
    axes = figure.subplots(len(recordings), 1, squeeze=False)[:, 0]
    for axis, (name, seconds, segments), speakers in zip(axes, recordings, rows, strict=True):
        for speaker in range(1, speakers + 1):
            own = [(s.start, s.end - s.start) for s in segments if s.speaker == speaker]
            axis.broken_barh(own, (speaker - 0.4, 0.8), color=f"C{(speaker - 1) % 10}")
        axis.set_yticks(range(1, speakers + 1), [f"speaker {n}" for n in range(1, speakers + 1)])
        axis.set_ylim(speakers + 0.5, 0.5)
        axis.set_xlim(0, seconds)
        # A dollar sign in a file's name is no formula.
        axis.set_title(Path(name).name.replace("$", r"\$"), fontsize=9)
        axis.set_xlabel("seconds")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
