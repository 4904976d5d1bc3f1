"""Give every piece of speech to the speaker whose voice it is.

A network that separates two similar voices may confuse them from one turn of a conversation to the next: what two
people say lands in one estimate. Within a turn the estimates are still good. So the estimates are cut into pieces of
a quarter of a second. A speaker encoder hears the voice of each piece, and the pieces of the whole recording are
clustered by voice (:mod:`~unmingle.separation.voice_clusters`).

A recording may have more speakers than the network has estimates, as long as no more of them speak at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from unmingle.audio import Samples, resample
from unmingle.separation.voice_clusters import PIECE, Heard, Labels, VoiceClusters, most_speakers
from unmingle.speaker_encoder import SpeakerEncoder

_FRAME_SECONDS = 0.04
"""Length of a frame of the encoder."""
PIECE_SECONDS = PIECE * _FRAME_SECONDS
"""Length of a piece."""
REACH = 12
"""Frames to both sides of the middle of a piece in which its voice is heard."""
_LOUD_SHARE, _QUIET = 0.3, 1e-3
"""The loudest frames give the level; frames with less energy than this, relative to it, hold no speech."""


def hear(encoder: SpeakerEncoder, estimates: Samples, sample_rate: int, scale: float = 1.0) -> Heard:
    """What is heard in the pieces of a window's estimates.

    Args:
        encoder: recognizes voices.
        estimates: ``(sources, samples)``.
        sample_rate: of them, in hertz.
        scale: factor by which the estimates were divided. The level is that of the undivided estimates.
    """
    audio = torch.from_numpy(resample(estimates, sample_rate, encoder.config.sample_rate))
    with torch.inference_mode():
        frames = encoder.frames(encoder.features(torch.cat([audio, audio.sum(dim=0, keepdim=True)])))
        count = frames.shape[-1]
        weights, total, level = estimate_weights(encoder, audio, count)
        together = torch.cat([weights, _audible(total)[None]])
        voices = []
        for middle in range(PIECE // 2, count + PIECE // 2, PIECE):
            near = slice(max(0, middle - REACH), middle + REACH)
            voices.append(encoder.pool(frames[..., near], together[:, near]))
    pieces = len(voices)
    padded = functional.pad(weights, (0, pieces * PIECE - count))
    presence = padded.reshape(len(audio), pieces, PIECE).mean(dim=-1)
    between = [float(total[k * PIECE - 1 : k * PIECE + 1].mean()) for k in range(1, pieces)]
    loudness = np.minimum(10 * np.array(between, dtype=np.float64), 1.0)
    kept = torch.stack(voices, dim=1).half().numpy()
    return Heard(kept[:-1], presence.double().numpy(), loudness, float(level) * scale**2, kept[-1])


def estimate_weights(encoder: SpeakerEncoder, estimates: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """How much each of ``count`` frames of estimates ``(sources, samples)`` says about their speaker.

    Returns:
        The weights ``(sources, count)``, the energy of all sources ``(count,)`` relative to the level, and the level.
    """
    audio = functional.pad(estimates, (0, count * encoder.hop))[:, : count * encoder.hop]
    energy = audio.reshape(len(audio), count, encoder.hop).square().sum(dim=-1)
    loudest = energy.amax(dim=0).sort(descending=True).values
    level = loudest[: max(1, round(_LOUD_SHARE * count))].mean()
    energy = energy / level.clamp_min(1e-12)
    total = energy.sum(dim=0)
    return _audible(energy) * energy / total.clamp_min(1e-12), total, level


def _audible(energy: Tensor) -> Tensor:
    return (100 * (energy - _QUIET)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Turns:
    """The speakers of all pieces of a recording's estimates."""

    labels: list[Labels]
    """For each window, the speaker of each source in each piece, ``(sources, pieces)``; -1 for none."""
    speakers: int
    confidence: float
    """In the number of speakers, 0 to 1; 1 if it was given."""
    further: float
    """Chance that there is one more speaker; 0 if that is not known."""


def recognize_turns(
    windows: Sequence[Heard], places: Sequence[Labels], sources: int, speakers: int | None
) -> Turns:
    """Give every piece to a speaker.

    With as many speakers as sources, the sources of a window stay as they are if the voices give little reason for a
    change. With more speakers than :func:`~unmingle.separation.voice_clusters.most_speakers`, all stay as they are.

    Args:
        windows: what is heard in each.
        places: the speaker of each window's sources as they are, ``(sources,)``; -1 for a source that is left out.
        sources: number of speakers of the sources as they are.
        speakers: number of speakers, at least as many; None to count them.
    """
    constant = [
        np.repeat(place[:, None], window.presence.shape[1], axis=1)
        for window, place in zip(windows, places, strict=True)
    ]
    if sources < 2 or (speakers or sources) > most_speakers(sources):
        return Turns(constant, speakers or sources, 1.0, 0.0)
    clusters, confidence = VoiceClusters(windows, places, sources), 1.0
    if speakers is None:
        speakers, confidence = clusters.count()
    labels = clusters.divide(speakers).labels
    kept = [
        np.where(as_it_is < 0, -1, label[place, : as_it_is.shape[1]])
        for label, place, as_it_is in zip(labels, places, constant, strict=True)
    ]
    return Turns(kept, speakers, confidence, clusters.chance_of_more(speakers))


def pieces_of_frames(frames: int, frame_seconds: float, pieces: int) -> Labels:
    """The piece in which each frame lies, ``(frames,)``."""
    found = (np.arange(frames) * frame_seconds / PIECE_SECONDS).astype(np.intp)
    return np.minimum(found, pieces - 1)


def shares(
    labels: Labels, speakers: int, frames: int, frame_seconds: float, start_seconds: float = 0.0
) -> Samples:
    """How much of each source goes to each speaker in each frame, ``(sources, speakers, frames)``, 0 to 1.

    The first frame is ``start_seconds`` after the start of the first piece. Changes are cross-faded over 40 ms. Label
    -1 is no speaker.
    """
    seconds = start_seconds + np.arange(frames) * frame_seconds
    # The middle of every piece's steady part, so that fades lie between pieces.
    starts = np.arange(labels.shape[1]) * PIECE_SECONDS
    places = np.stack([starts + _FRAME_SECONDS / 2, starts + (PIECE - 0.5) * _FRAME_SECONDS], axis=1).ravel()
    found = np.zeros((len(labels), speakers, frames), dtype=np.float32)
    for source, label in enumerate(labels):
        for speaker in np.unique(label[label >= 0]):
            own = np.repeat(label == speaker, 2).astype(np.float32)
            found[source, speaker] = np.interp(seconds, places, own)
    return found
