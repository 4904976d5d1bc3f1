"""Train a speaker encoder further, on pieces of separated recordings.

    python -m unmingle.training.speaker_pieces FOLDER --init-from FIRST.safetensors -o ENCODER.safetensors

FOLDER holds recordings of :mod:`unmingle.training.separated_recordings`. An estimate of a separator sounds otherwise
than clean speech, and the encoder must tell apart the speakers of one recording, in pieces as short as those of
:mod:`unmingle.separation.turns`. So each piece of an estimate must find its speaker among those of its recording,
and with less weight among all speakers of the batch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unmingle.errors import UnmingleError
from unmingle.separation.fine_masks import FineMasks
from unmingle.separation.turns import REACH, estimate_weights
from unmingle.separation.voice_clusters import PIECE
from unmingle.speaker_encoder import SpeakerEncoder, load_speaker_encoder, save_speaker_encoder
from unmingle.stft import Stft
from unmingle.temporary import check_writable
from unmingle.training.averaging import WeightAverage
from unmingle.training.schedule import held_then_decayed
from unmingle.training.separated_recordings import read_separated, recordings_of, separator

_RATE, _WARMUP, _CONSTANT = 4e-4, 50, 0.4
"""Learning rate; steps in which it rises; share of the steps until it decays."""
_SCALE = 16.0
"""Initial factor of the cosines."""
_OTHERS = 0.3
"""Weight of the loss among all speakers of the batch."""
_APART = 4
"""Pieces so near to each other have frames in common, so that one says nothing about the voice of the other."""
_LEAST, _HEARD = 0.02, 2.0
"""Weight below which a piece does not count; weight of pieces from which a speaker's voice is known."""
_RECORDINGS, _SECONDS = 6, 16.0
"""Recordings per batch, and their length in seconds."""
_AVERAGE, _REPORT_EVERY = 0.99, 100


@dataclass(frozen=True)
class Pieces:
    """The pieces of a recording's estimates; ``pieces`` are those of all estimates, one estimate after the other."""

    voices: Tensor
    """Speaker embeddings ``(pieces, dim)``."""
    speakers: Tensor
    """The speaker who is loudest in each, ``(pieces,)``."""
    weights: Tensor
    """How clearly that speaker is heard, 0 to 1: ``(pieces,)``."""
    times: Tensor
    """Number of each in its estimate, ``(pieces,)``."""
    count: int
    """Number of speakers."""


def hear_pieces(encoder: SpeakerEncoder, estimates: Tensor, energy: Tensor, features: Tensor) -> Pieces:
    """The pieces of ``estimates``, as :func:`unmingle.separation.turns.hear` cuts them, with gradients.

    Args:
        encoder: the speaker encoder.
        estimates: at the encoder's rate, ``(estimates, samples)``.
        energy: of each speaker in each estimate, ``(estimates, speakers, frames)``.
        features: of the estimates, ``(estimates, features, bands)``.
    """
    frames = encoder.frames(features)
    count, number = frames.shape[-1], len(estimates)
    weights = estimate_weights(encoder, estimates, count)[0]
    pieces = -(-count // PIECE)
    rest = pieces * PIECE - count
    around = (REACH - PIECE // 2, rest + REACH)
    near = functional.pad(frames, around).unfold(-1, 2 * REACH, PIECE)[:, :, :pieces].transpose(1, 2)
    counted = functional.pad(weights, around).unfold(-1, 2 * REACH, PIECE)[:, :pieces]
    voices = encoder.pool(near.flatten(0, 1), counted.flatten(0, 1))
    presence = functional.pad(weights, (0, rest)).unflatten(1, (pieces, PIECE)).mean(dim=-1)
    heard = functional.interpolate(energy, size=count, mode="area")
    heard = functional.pad(heard, (0, rest)).unflatten(-1, (pieces, PIECE)).sum(dim=-1)
    share, speakers = (heard / heard.sum(dim=1, keepdim=True).clamp_min(1e-12)).max(dim=1)
    clear = presence * (2 * share - 1).clamp_min(0.0)
    times = torch.arange(pieces).repeat(number)
    return Pieces(voices, speakers.flatten(), clear.flatten(), times, energy.shape[1])


def fits(pieces: Pieces) -> tuple[Tensor, Tensor]:
    """How near each piece is to each speaker's voice, as the other pieces give it.

    Returns:
        The cosines, and the weight of the pieces that give the voices, both ``(pieces, speakers)``.
    """
    apart = ((pieces.times[:, None] - pieces.times).abs() > _APART).to(pieces.weights)
    own = functional.one_hot(pieces.speakers, pieces.count) * pieces.weights[:, None]
    sums = torch.einsum("pq,qk,qd->pkd", apart, own, pieces.voices)
    return (functional.normalize(sums, dim=-1) * pieces.voices.unsqueeze(1)).sum(dim=-1), apart @ own


def pieces_loss(batch: Sequence[Pieces], scale: Tensor) -> Tensor:
    """Cross-entropy of the speaker of each piece among those of its recording, and among all of the batch."""
    sums = [functional.one_hot(each.speakers, each.count).T * each.weights @ each.voices for each in batch]
    centres = [functional.normalize(each, dim=-1) for each in sums]
    losses, weights = [torch.zeros(1)], [torch.zeros(1)]
    for number, pieces in enumerate(batch):
        inside, amounts = fits(pieces)
        known = (amounts > _HEARD).all(dim=-1) & (pieces.weights > _LEAST)
        others = [centre for other, centre in enumerate(centres) if other != number]
        among_all = torch.cat([inside, *(pieces.voices @ other.T for other in others)], dim=-1)
        speakers = pieces.speakers[known]
        near = functional.cross_entropy(scale * inside[known], speakers, reduction="none")
        far = functional.cross_entropy(scale * among_all[known], speakers, reduction="none")
        losses.append(pieces.weights[known] * (near + _OTHERS * far))
        weights.append(pieces.weights[known])
    return torch.cat(losses).sum() / torch.cat(weights).sum().clamp_min(1e-9)


def crop(
    rng: np.random.Generator, path: Path, stft: Stft, seconds: float, rate: int
) -> tuple[Tensor, Tensor]:
    """Estimates ``(estimates, samples)`` of a part of a recording, and the energy of each speaker in each of them,
    ``(estimates, speakers, frames)``."""
    recording, hop = read_separated(path), stft.hop
    frames = min(recording.masks.shape[1], round(seconds * rate / hop))
    first = int(rng.integers(recording.masks.shape[1] - frames + 1))
    part = slice(first * hop, (first + frames - 1) * hop)
    mixture, sources = (stft.analyse(audio[..., part]) for audio in (recording.mixture, recording.sources))
    masks = recording.masks[:, first : first + frames]
    energy = (masks.unsqueeze(1) * sources.abs()).square().sum(dim=-1)
    return stft.synthesise(masks * mixture, (frames - 1) * hop), energy


def train_on_pieces(
    encoder: SpeakerEncoder, folder: Path, stft: Stft, output: Path, steps: int, seed: int = 0
) -> None:
    """Train an encoder further, and write the average of its weights to ``output``.

    Raises:
        UnmingleError: there are no recordings, or the file cannot be written.
    """
    check_writable(output.absolute().parent)
    rng = np.random.default_rng(seed)
    paths = [path for group in recordings_of(folder).values() for path in group]
    encoder = encoder.eval().requires_grad_()  # With the statistics of clean speech.
    scale, average = nn.Parameter(torch.tensor(_SCALE)), WeightAverage(encoder, _AVERAGE)
    optimizer = torch.optim.AdamW([*encoder.parameters(), scale], lr=_RATE, weight_decay=1e-3)
    began, losses = time.monotonic(), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * held_then_decayed(step, steps, _WARMUP, _CONSTANT)
        batch = []
        for number in rng.integers(len(paths), size=_RECORDINGS):
            estimates, energy = crop(rng, paths[number], stft, _SECONDS, encoder.config.sample_rate)
            features = _without_some_bands(rng, encoder.features(estimates))
            batch.append(hear_pieces(encoder, estimates, energy, features))
        loss = pieces_loss(batch, scale)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 5.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        average.update()
        if (step + 1) % _REPORT_EVERY == 0 or step + 1 == steps:
            minutes = (time.monotonic() - began) / 60
            print(f"step {step + 1}/{steps}  {minutes:.1f} min  loss {np.mean(losses):.3f}", flush=True)
            losses = []
            with average.applied():
                save_speaker_encoder(encoder, output)


def _without_some_bands(rng: np.random.Generator, features: Tensor) -> Tensor:
    """Features of which some neighbouring bands are at the mean, in half of the recordings."""
    if rng.random() < 0.5:
        return features
    width = int(rng.integers(1, 8))
    first = int(rng.integers(features.shape[-1] - width))
    masked = features.clone()
    masked[..., first : first + width] = features.mean()
    return masked


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", type=Path, metavar="FOLDER")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--init-from", type=Path, required=True, help="Encoder to go on from.")
    parser.add_argument("--model", default="adanet-2speakers-8khz", help="Separated the recordings.")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    try:
        system, encoder = separator(arguments.model), load_speaker_encoder(arguments.init_from)
        if system.sample_rate != encoder.config.sample_rate:
            raise UnmingleError(
                f"The system runs at {system.sample_rate} Hz, the encoder at {encoder.config.sample_rate} Hz; choose "
                "an encoder of the same rate."
            )
        train_on_pieces(
            encoder, arguments.recordings, FineMasks(system).stft, arguments.output, arguments.steps
        )
    except UnmingleError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
