"""How well the estimates keep the speakers of a conversation apart.

SI-SDR says little where people take turns: without overlap, the mixture itself has a high SI-SDR for the
speaker who speaks most. Listeners notice something else: whether a speaker's words are in the speaker's
own file, and how loud the other speakers are in it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unmingle.audio import Samples, active_level

_FRAME_SECONDS = 0.02
_SPEAKING_DB = -30.0
"""A frame is speech above this level, relative to the speaker's active level."""
_SILENT_DB = -50.0
"""A frame is silence below this level, relative to the speaker's active level."""
LEAST_LEAKAGE_DB = -60.0


def frame_levels(audio: Samples, sample_rate: int) -> NDArray[np.float64]:
    """Root mean square of every 20 ms of ``(..., samples)``: ``(..., frames)``. A partial last frame is dropped."""
    size = round(_FRAME_SECONDS * sample_rate)
    frames = audio.shape[-1] // size
    cut = audio[..., : frames * size].astype(np.float64).reshape(*audio.shape[:-1], frames, size)
    levels: NDArray[np.float64] = np.sqrt(np.square(cut).mean(axis=-1))
    return levels


def speaking_alone(references: Samples, sample_rate: int) -> NDArray[np.bool_]:
    """Frames in which one speaker speaks and all others are silent: ``(speakers, frames)``.

    Args:
        references: ``(speakers, samples)``.
        sample_rate: in hertz.
    """
    levels = frame_levels(references, sample_rate)
    active = np.array([[max(active_level(each, sample_rate), 1e-9)] for each in references])
    speaking = levels > active * 10 ** (_SPEAKING_DB / 20)
    silent = levels < active * 10 ** (_SILENT_DB / 20)
    alone = [speaking[k] & np.delete(silent, k, axis=0).all(axis=0) for k in range(len(references))]
    return np.stack(alone)


def wrong_speaker_share(estimates: Samples, references: Samples, sample_rate: int) -> float:
    """Share of single-speaker frames that are louder in another speaker's estimate than in the speaker's own one.

    0 is perfect; with two speakers 0.5 is chance. NaN if nobody ever speaks alone.

    Args:
        estimates: ``(speakers, samples)``, in the order of the references.
        references: ``(speakers, samples)``.
        sample_rate: in hertz.
    """
    alone = speaking_alone(references, sample_rate)
    levels = frame_levels(estimates, sample_rate)
    wrong = [
        alone[k] & (np.delete(levels, k, axis=0).max(axis=0) > levels[k]) for k in range(len(references))
    ]
    total = int(alone.sum())
    return int(np.stack(wrong).sum()) / total if total else float("nan")


def leakage(estimates: Samples, references: Samples, sample_rate: int) -> float:
    """Level in dB of the other estimates relative to the speaker's own one, while one speaker speaks alone.

    Energies are summed over all such frames. The result is at least -60, and NaN if nobody ever speaks alone.

    Args:
        estimates: ``(speakers, samples)``, in the order of the references.
        references: ``(speakers, samples)``.
        sample_rate: in hertz.
    """
    alone = speaking_alone(references, sample_rate)
    if not alone.any():
        return float("nan")
    power = np.square(frame_levels(estimates, sample_rate))
    own = sum(float(power[k][alone[k]].sum()) for k in range(len(references)))
    others = sum(float(np.delete(power, k, axis=0)[:, alone[k]].sum()) for k in range(len(references)))
    return max(LEAST_LEAKAGE_DB, 10 * float(np.log10(max(others, 1e-30) / max(own, 1e-30))))
