"""Give every frame in which one speaker is heard alone to that speaker as a whole.

A small network (:mod:`unmingle.speaker_activity`) tells which frames these are, from the voices of the recording's
speakers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmingle.audio import Samples
from unmingle.separation.turns import pieces_of_frames, shares
from unmingle.separation.voice_clusters import Heard, Labels, audibility
from unmingle.speaker_activity import (
    ActivityInputs,
    SpeakerActivity,
    relative_power,
    speech_weight,
    to_frames,
)

_PRESENT = 0.05
"""Presence of an estimate in a piece below which no voice is heard."""
_SURE = 0.25
"""Presence from which a voice counts fully."""
_OVERLAP = (0.2, 0.5)
"""Share of the speech with several speakers up to which "alone" is believed, and from which it is not."""


def speaker_voices(windows: Sequence[Heard], labels: Sequence[Labels], speakers: int) -> Samples:
    """The mean voice of each speaker's pieces, of unit length: ``(speakers, dim)``.

    Args:
        windows: what is heard in each.
        labels: the speaker of each source in each piece of a window, ``(sources, pieces)``; -1 for none.
        speakers: their number.
    """
    sums = np.zeros((speakers, windows[0].voices.shape[-1]))
    for window, label, counts in zip(windows, labels, audibility(windows), strict=True):
        weights = counts * window.presence * (label == np.arange(speakers)[:, None, None])
        sums += np.tensordot(weights, window.voices.astype(np.float64), axes=2)
    unit: Samples = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    single: Samples = unit.astype(np.float32)
    return single


def activity_inputs(
    magnitude: Tensor, masks: Tensor, heard: Heard, labels: Labels, voices: Samples, frame_seconds: float
) -> ActivityInputs:
    """What the network sees of a window, as a batch of one.

    Args:
        magnitude: of the mixture, ``(frames, freqs)``.
        masks: of the sources, ``(sources, frames, freqs)``.
        heard: what is heard in the pieces of the sources.
        labels: the speaker of each source in each piece, ``(sources, pieces)``.
        voices: of the speakers, ``(speakers, dim)``.
        frame_seconds: seconds between two frames.
    """
    frames = len(magnitude)
    share = torch.from_numpy(shares(labels, len(voices), frames, frame_seconds))
    cosines = np.einsum("spd,kd->spk", heard.voices.astype(np.float32), voices)
    cosines = cosines * (heard.presence[..., None] > _PRESENT)
    nearest = (cosines * np.minimum(1.0, heard.presence / _SURE)[..., None]).argmax(
        axis=0
    )  # (pieces, speakers)
    piece, pieces = pieces_of_frames(frames, frame_seconds, len(nearest)), np.arange(len(nearest))
    mixed = heard.mixed.astype(np.float32) @ voices.T
    likeness = np.zeros((len(voices), len(nearest), 4), dtype=np.float32)
    for speaker in range(len(voices)):
        for place, own in enumerate((cosines[nearest[:, speaker], pieces], mixed)):
            likeness[speaker, :, 2 * place] = own[:, speaker]
            likeness[speaker, :, 2 * place + 1] = np.delete(own, speaker, axis=1).max(axis=1)
    chosen = torch.from_numpy(nearest[piece].T)  # (speakers, frames)
    return ActivityInputs(
        relative_power(magnitude)[None],
        (share[..., None] * masks[:, None]).sum(dim=0)[None],
        masks[chosen, torch.arange(frames)][None],
        torch.from_numpy(likeness[:, piece])[None],
        torch.from_numpy(voices)[None],
    )


def alone_or_several(network: SpeakerActivity, inputs: ActivityInputs) -> Samples:
    """Chance of each speaker alone and, at last, of several, in each frame: ``(speakers + 1, frames)``.

    If several speakers are heard in a large part of the speech, the chances that one speaks alone are lowered.
    Otherwise a speaker who speaks all the time would be given every frame in which the others are weak.

    Args:
        network: gives the chances.
        inputs: what it sees, as a batch of one.
    """
    frames = inputs.masks.shape[2]
    with torch.inference_mode():
        answers = network(inputs)
        speech = speech_weight(inputs.power[0].sum(dim=-1))
        found = to_frames(answers.exp(), frames)[0]
        overlap = float((speech * found[-1]).sum() / speech.sum().clamp_min(1e-9))
    few, many = _OVERLAP
    belief = min(1.0, max(0.0, (many - overlap) / (many - few)))
    chances: Samples = (belief * found).numpy()
    chances[-1] += 1 - belief
    return chances


def shares_of_frames(share: Samples, chances: Samples, given: NDArray[np.bool_]) -> Samples:
    """Shares by the chance that a speaker is alone: what is expected of each source for each speaker.

    Args:
        share: how much of each source goes to each speaker by its voice, ``(sources, speakers, frames)``.
        chances: of :func:`alone_or_several`.
        given: whether a source belongs to any speaker, ``(sources,)``.

    Returns:
        ``(sources, speakers, frames)``.
    """
    alone = chances[None, :-1] * given[:, None, None]
    expected: Samples = alone + chances[-1] * share
    return expected
