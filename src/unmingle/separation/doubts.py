"""Warnings about a recording that was separated."""

from __future__ import annotations

from unmingle.separation.order import speaking
from unmingle.separation.windows import Tracks

_SURE_JOIN = 0.8
"""Minimum share of the recording in which the windows are joined with confidence."""
_NEARLY_SILENT = 1e-3
"""Energy of an estimate relative to the loudest one: -30 dB."""
_SURE_COUNT = 0.7
"""Minimum confidence in the number of speakers, without a warning."""
_FURTHER_SPEAKER = 0.7
"""Chance of one more speaker above which there is a warning."""
NOISY_DB = 14.0
"""Minimum SNR in dB of speech over steady noise, without a warning; see `benchmarks/noise_warning.py`."""
HARDLY_OVERLAP = 0.02
"""Minimum share of the speech in which speakers overlap, without a warning; see `benchmarks/overlap_warning.py`."""


def doubts(tracks: Tracks, *, cleaned: bool) -> list[str]:
    """Warnings without the file's name: what may be wrong with the estimates.

    Args:
        tracks: who speaks when.
        cleaned: whether noise is removed from the estimates.
    """
    found = []
    if tracks.join_confidence < _SURE_JOIN:
        found.append(
            "in parts no voice was recognized, so a speaker may change from one file to another there"
        )
    if tracks.count_confidence < _SURE_COUNT:
        found.append("the number of speakers is in doubt; --speakers N sets it")
    if tracks.further_speaker > _FURTHER_SPEAKER:
        found.append("there may be one more speaker; --speakers auto counts them")
    energy = tracks.power.sum(axis=1)
    for number, own in enumerate(energy, start=1):
        if own < _NEARLY_SILENT * energy.max():
            found.append(f"estimate {number} is nearly silent")
    if tracks.snr < NOISY_DB and not cleaned:
        found.append(
            f"steady noise is only about {max(tracks.snr, 0):.0f} dB below the speech; --denoise removes it"
        )
    if tracks.speakers > 1 and not found and overlap_share(tracks) < HARDLY_OVERLAP:
        found.append("the speakers hardly overlap, so the estimates may be no better than the recording")
    return found


def overlap_share(tracks: Tracks) -> float:
    """Share of the speech in which several speakers speak, 0 to 1; 1 if nobody speaks."""
    speaks = speaking(tracks.power, tracks.frame_seconds)[0].sum(axis=0)
    speech = int((speaks > 0).sum())
    return int((speaks > 1).sum()) / speech if speech else 1.0
