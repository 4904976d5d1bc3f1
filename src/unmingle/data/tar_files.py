"""Speech in tar files, as WebDataset lays it out: ``KEY.flac`` and ``KEY.json`` for each utterance.

The JSON has ``speaker``, and may have ``corpus``, ``gender``, ``license`` and ``text``. Without it, the folder in
the tar file is the speaker: ``SPEAKER/*.flac``. A tar file whose name begins with ``valid``, ``dev`` or ``test`` is
of that split, any other is for training.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmingle.audio_names import AUDIO_SUFFIXES
from unmingle.data.cache import DecodedSpeech, decode_file, fill_once, write_decoded
from unmingle.data.corpora import Utterance, gender_of
from unmingle.errors import UnmingleError, in_one_line
from unmingle.remote import file_system, is_url, open_binary

_log = logging.getLogger(__name__)

_SPLITS = {"valid": "valid", "dev": "valid", "test": "test"}
_UTTERANCES = "utterances.json"


@dataclass(frozen=True)
class SpokenTar:
    """The decoded utterances of a tar file."""

    utterances: list[Utterance]
    speech: DecodedSpeech


def any_tars(data: Sequence[str]) -> bool:
    """Whether the data are tar files.

    Raises:
        UnmingleError: some are, and others are not.
    """
    tars = [_is_tar(source) for source in data]
    if any(tars) and not all(tars):
        raise UnmingleError(
            "Tar files and corpora cannot be trained on together; give --data of one kind (noise may be a corpus)."
        )
    return any(tars)


def _is_tar(source: str) -> bool:
    if source.lower().endswith(".tar"):
        return True
    folder = Path(source)
    return not is_url(source) and not (folder / "speech.csv").exists() and any(folder.glob("*.tar"))


def find_tars(data: Sequence[str], split: str) -> list[str]:
    """The tar files of a split, sorted, each by absolute path or URL.

    Args:
        data: files, folders of them, globs; paths, or URLs that fsspec knows.
        split: ``train``, ``valid`` or ``test``.

    Raises:
        UnmingleError: there are none.
    """
    found = sorted({tar for source in data for tar in _find(source)})
    kept = [tar for tar in found if _split_of(tar) == split]
    if not kept:
        remedy = "check the name" if not found else f"name one {split}-0.tar"
        raise UnmingleError(f"There are no tar files of the {split} split in {', '.join(data)}; {remedy}.")
    return kept


def _split_of(tar: str) -> str:
    name = PurePosixPath(tar).name.lower()
    return next((split for start, split in _SPLITS.items() if name.startswith(start)), "train")


def _find(source: str) -> list[str]:
    if not is_url(source):
        path = Path(source)
        named = [*path.glob("*.tar")] if path.is_dir() else map(Path, glob.glob(source))
        return [str(each.absolute()) for each in named]
    files, inside = file_system(source)
    try:
        return [files.unstrip_protocol(each) for each in files.glob(inside)]
    except Exception as error:
        raise UnmingleError(f"{source} cannot be read ({in_one_line(error)}).") from error


def open_tar(tar: str, sample_rate: int, folder: Path) -> SpokenTar:
    """Decode a tar file into a folder below ``folder``, unless it is there, and open it.

    An utterance that cannot be read, or is silent, is left out with a warning.

    Args:
        tar: path or URL.
        sample_rate: in hertz.
        folder: of the cache.

    Raises:
        UnmingleError: the tar file cannot be read to its end, names no speaker, or the cache cannot be written.
    """
    place = folder / cache_name(tar)
    while True:
        fill_once(place, partial(_decode_into, tar=tar, sample_rate=sample_rate))
        try:
            rows = json.loads((place / _UTTERANCES).read_bytes())
            speech = DecodedSpeech(place)
        except FileNotFoundError:
            continue  # Another process has just removed it.
        return SpokenTar([Utterance(Path(row.pop("path")), split="train", **row) for row in rows], speech)


def cache_name(tar: str) -> str:
    """The name of the folder that :func:`open_tar` makes: it differs if the file's size or time does.

    Raises:
        UnmingleError: there is no such file.
    """
    try:
        if is_url(tar):
            files, inside = file_system(tar)
            state = files.ukey(inside)
        else:
            found = Path(tar).stat()
            state = f"{found.st_size}|{int(found.st_mtime)}"
    except UnmingleError:
        raise
    except Exception as error:
        raise UnmingleError(f"{tar} cannot be read ({in_one_line(error)}).") from error
    return hashlib.sha256(f"{tar}|{state}".encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _decode_into(folder: Path, tar: str, sample_rate: int) -> None:
    kept: list[str] = []
    facts: dict[str, Any] = {}
    write_decoded(folder, _decoded(tar, sample_rate, folder / "in", kept, facts))
    rows = [_row(tar, member, facts.get(_key(member), {})) for member in kept]
    (folder / _UTTERANCES).write_text(json.dumps(rows))


def _decoded(
    tar: str, sample_rate: int, copies: Path, kept: list[str], facts: dict[str, Any]
) -> Iterator[tuple[NDArray[np.int16], float]]:
    """Samples and level of every utterance; its member's name is added to ``kept``, what JSON says to ``facts``."""
    copies.mkdir()
    for name, content in _members(tar):
        suffix = PurePosixPath(name).suffix.lower()
        if suffix == ".json":
            facts[_key(name)] = _read_json(tar, name, content)
        elif suffix in AUDIO_SUFFIXES:
            path = copies / f"audio{suffix}"
            path.write_bytes(content)
            try:
                samples, level = decode_file(path, sample_rate)
            except UnmingleError as error:
                _log.warning("%s", str(error).replace(str(path), f"{tar}!{name}"))
                continue
            if not len(samples) or level == 0.0:
                _log.warning("%s!%s is silent; it is left out.", tar, name)
                continue
            kept.append(name)
            yield samples, level
    shutil.rmtree(copies)
    if not kept:
        raise UnmingleError(f"{tar} holds no speech that can be read; remove it.")


def _members(tar: str) -> Iterator[tuple[str, bytes]]:
    try:
        with open_binary(tar) as file, tarfile.open(fileobj=file, mode="r|") as opened:
            for member in opened:
                content = opened.extractfile(member) if member.isfile() else None
                if content is not None and not PurePosixPath(member.name).name.startswith("."):
                    yield member.name, content.read()
    except (UnmingleError, GeneratorExit):
        raise
    except Exception as error:
        raise UnmingleError(
            f"{tar} cannot be read to its end as a tar file ({in_one_line(error)})."
        ) from error


def _key(member: str) -> str:
    return str(PurePosixPath(member).with_suffix(""))


def _read_json(tar: str, member: str, content: bytes) -> dict[str, Any]:
    try:
        values = json.loads(content)
        if isinstance(values, dict):
            return values
    except (ValueError, RecursionError):
        pass
    raise UnmingleError(f"{tar}!{member} is not a JSON object; write one with the key speaker.")


def _row(tar: str, member: str, facts: dict[str, Any]) -> dict[str, str]:
    corpus = str(facts.get("corpus") or PurePosixPath(tar).parent.name)
    folder = PurePosixPath(member).parent.name
    speaker = str(facts.get("speaker") or (f"{corpus}:{folder}" if folder else ""))
    if not speaker:
        raise UnmingleError(
            f"{tar}!{member} has no speaker; give it a .json with the key speaker, or a folder of its speaker's name."
        )
    return {
        "path": f"{tar}!{member}",
        "corpus": corpus,
        "speaker": speaker,
        "gender": gender_of(str(facts.get("gender") or "")),
        "license": str(facts.get("license") or "unknown"),
        "text": str(facts.get("text") or ""),
    }
