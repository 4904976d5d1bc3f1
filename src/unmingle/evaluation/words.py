"""Word error rates of a speech recognizer before and after separation.

Isik et al. 2016 (Table 7) report them with their own recognizer. Ours is pocketsphinx with the English model in its
wheel. It is weak, so every rate is reported together with the rate for clean speech at the same sample rate. A rate
is the number of word errors (jiwer: substitutions, deletions, insertions) over the number of words of all speakers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np

from unmingle.audio import Samples, resample

_RATE = 16000
CORPORA = ("librispeech", "wsj0")
"""Prefixes of the names of corpora that are recognized: English read by native speakers."""


@dataclass(frozen=True)
class WordErrors:
    """Word errors of one speaker."""

    words: int
    errors: Mapping[str, int]
    """For ``mixture``, ``estimate``, ``oracle`` and ``clean``."""


def recognizer_name() -> str:
    """Name and version of the recognizer, for the results."""
    return f"pocketsphinx {version('pocketsphinx')}, its en-us model, 16 kHz; jiwer {version('jiwer')}"


def normalize(text: str) -> str:
    """Lower-case words of letters and apostrophes, with single spaces.

    Noises that WSJ0 marks in square brackets, such as ``[lip_smack]``, are removed.
    """
    return " ".join(re.findall(r"[a-z']+", re.sub(r"\[[^\]]*\]", " ", text.lower())))


def count_errors(text: str, versions: Mapping[str, Samples], sample_rate: int) -> WordErrors | None:
    """Word errors in each version ``(samples,)`` of a speaker's utterance; None if the text has no words."""
    import jiwer

    wanted = normalize(text)
    if not wanted:
        return None
    errors = {}
    for name, audio in versions.items():
        found = jiwer.process_words(wanted, recognize(audio, sample_rate))
        errors[name] = found.substitutions + found.deletions + found.insertions
    return WordErrors(len(wanted.split()), errors)


def recognize(audio: Samples, sample_rate: int) -> str:
    """The words in ``(samples,)``. Earlier recordings do not change the result."""
    decoder = _decoder()
    converted = resample(audio.astype(np.float32), sample_rate, _RATE)
    peak = float(np.abs(converted).max(initial=0.0))
    if not math.isfinite(peak) or peak == 0.0:
        return ""
    decoder.reinit_feat()  # Forgets the running mean of the last recording.
    decoder.start_utt()
    # Normalized, because the level of an estimate must not change the result.
    decoder.process_raw(np.round(converted * (0.5 * 32767 / peak)).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return normalize(found.hypstr) if found else ""


@cache
def _decoder() -> Any:
    import pocketsphinx

    return pocketsphinx.Decoder(samprate=_RATE, loglevel="FATAL")


def summarize_words(speakers: Sequence[WordErrors]) -> dict[str, Any]:
    """Rates over all speakers, and the share of the mixture's excess over clean speech that separation removes."""
    words = sum(speaker.words for speaker in speakers)
    rates = {}
    # One source without noise has no oracle, so not all speakers have all versions.
    for name in dict.fromkeys(name for speaker in speakers for name in speaker.errors):
        having = [speaker for speaker in speakers if name in speaker.errors]
        rates[name] = sum(speaker.errors[name] for speaker in having) / sum(each.words for each in having)
    excess = rates["mixture"] - rates["clean"]
    gone = (rates["mixture"] - rates["estimate"]) / excess if excess > 0 else None
    return {
        "recognizer": recognizer_name(),
        "speakers": len(speakers),
        "words": words,
        "rates": rates,
        "excess_removed": gone,
    }
