"""Which files are audio, by their names or their first bytes."""

from __future__ import annotations

import re
from pathlib import Path

import soundfile

_LIBSNDFILE = {
    "AIFF": (".aif", ".aiff", ".aifc"), "AU": (".au", ".snd"), "AVR": (".avr",), "CAF": (".caf",),
    "FLAC": (".flac",), "HTK": (".htk",), "IRCAM": (".sf", ".ircam"), "MP3": (".mp3", ".mp2", ".mpga"),
    "NIST": (".sph", ".nist", ".wv1", ".wv2"), "OGG": (".ogg", ".oga", ".opus"), "PAF": (".paf",),
    "PVF": (".pvf",), "RF64": (".rf64",), "SVX": (".8svx", ".iff", ".svx"), "VOC": (".voc",),
    "W64": (".w64",), "WAV": (".wav", ".wave", ".bwf"),
}  # fmt: skip
"""Suffixes by libsndfile's formats for speech and music. The installed libsndfile says which formats it has."""
_PYAV = (
    ".3g2", ".3gp", ".aac", ".ac3", ".amr", ".ape", ".asf", ".avi", ".dts", ".eac3", ".flv", ".m2ts", ".m4a",
    ".m4b", ".m4v", ".mka", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".spx", ".tta", ".vob", ".webm",
    ".wma", ".wmv", ".wv",
)  # fmt: skip
"""Suffixes of further formats that the FFmpeg in PyAV (the extra ``media``) reads."""
AUDIO_SUFFIXES = frozenset(
    suffix for name in soundfile.available_formats() for suffix in _LIBSNDFILE.get(name, ())
) | frozenset(_PYAV)
"""Suffixes of files that count as audio in a folder."""

_MAGIC = re.compile(
    rb"RIFF....WAVE|RIFX....WAVE|RF64....WAVE|FORM....AIF[FC]|riff\x2e\x91\xcf\x11|caff\x00\x01|\.snd\x00\x00"
    rb"|fLaC\x00|OggS\x00|NIST_1A\n|ID3[\x02-\x04]|Creative Voice File|....ftyp(?:M4A|M4B|isom|mp4|3g)|\x1aE\xdf\xa3",
    re.DOTALL,
)
"""First bytes of audio files, for names without a known suffix, such as ``REC0001``."""


def is_audio(path: Path) -> bool:
    """Whether a file of a folder is audio, by its suffix or its first bytes. Hidden files are not."""
    if path.name.startswith(".") or not path.is_file():
        return False
    if path.suffix.lower() in AUDIO_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return _MAGIC.match(file.read(32)) is not None
    except OSError:
        return False


def audio_files(folder: Path) -> list[Path]:
    """The audio files in a folder and its subfolders, sorted. Hidden files and folders are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and is_audio(path)
    )
