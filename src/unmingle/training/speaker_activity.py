"""Train the activity network, which finds the frames with a single speaker (:mod:`unmingle.speaker_activity`).

    python -m unmingle.training.speaker_activity FOLDER -o ACTIVITY.safetensors

FOLDER holds recordings of :mod:`unmingle.training.separated_recordings`. The network learns from crops of 8 s.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from unmingle.errors import UnmingleError
from unmingle.separation.fine_masks import FineMasks
from unmingle.speaker_activity import (
    ActivityInputs,
    SpeakerActivity,
    SpeakerActivityConfig,
    load_speaker_activity,
    save_speaker_activity,
    speech_weight,
)
from unmingle.speaker_encoder import SPEAKER_ENCODER, load_speaker_encoder
from unmingle.temporary import check_writable
from unmingle.training.activity_recordings import ActivityRecordings
from unmingle.training.averaging import WeightAverage
from unmingle.training.schedule import held_then_decayed
from unmingle.training.separated_recordings import separator

_RATE, _WARMUP, _CONSTANT = 1e-3, 50, 0.5
"""Learning rate; steps in which it rises; share of the steps until it decays."""
_AVERAGE = 0.99
"""Decay per step of the average of the weights."""
_CROPS, _REPORT_EVERY = 8, 200


def activity_loss(found: Tensor, mixture: Tensor, sources: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy of who is heard alone.

    The right answer of a step is the one with the least error of all estimates: the whole mixture to one speaker, or
    the masks as they are. Steps with little speech count little.

    Args:
        found: log-probabilities ``(batch, speakers + 1, steps)``.
        mixture: spectra ``(batch, frames, freqs)``; there may be noise in them.
        sources: spectra ``(batch, speakers, frames, freqs)``.
        masks: as they are, of the same shape.
    """
    mixture = mixture.unsqueeze(1)
    energy = _steps(sources.abs().square().sum(dim=-1))
    total = energy.sum(dim=1)
    alone = _steps((mixture - sources).abs().square().sum(dim=-1)) + total.unsqueeze(1) - energy
    several = _steps((masks * mixture - sources).abs().square().sum(dim=(1, -1)))
    answer = torch.cat([alone, several.unsqueeze(1)], dim=1).argmin(dim=1)
    weight = speech_weight(total)
    loss: Tensor = nn.functional.nll_loss(found[..., : answer.shape[-1]], answer, reduction="none")
    return (weight * loss).sum() / weight.sum().clamp_min(1e-9)


def _steps(values: Tensor) -> Tensor:
    """The sum of every two frames ``(..., frames)``; a last odd frame is left out."""
    pairs = values[..., : values.shape[-1] // 2 * 2].reshape(*values.shape[:-1], -1, 2)
    return pairs.sum(dim=-1)


def train_speaker_activity(
    recordings: ActivityRecordings, network: SpeakerActivity, output: Path, steps: int, seed: int = 0
) -> None:
    """Train a network, and write the average of its weights to ``output``.

    Raises:
        UnmingleError: the file cannot be written.
    """
    check_writable(output.absolute().parent)
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-2)
    average, began, losses = WeightAverage(network, _AVERAGE), time.monotonic(), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * held_then_decayed(step, steps, _WARMUP, _CONSTANT)
        losses.append(_step(network, optimizer, *recordings.batch(rng, _CROPS)))
        average.update()
        if (step + 1) % _REPORT_EVERY == 0 or step + 1 == steps:
            minutes = (time.monotonic() - began) / 60
            print(f"step {step + 1}/{steps}  {minutes:.1f} min  loss {np.mean(losses):.3f}", flush=True)
            losses = []
            with average.applied():
                save_speaker_activity(network, output)


def _step(
    network: SpeakerActivity,
    optimizer: torch.optim.Optimizer,
    mixture: Tensor,
    sources: Tensor,
    inputs: ActivityInputs,
) -> float:
    loss = activity_loss(network(inputs), mixture, sources, inputs.masks)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimizer.step()
    return float(loss.detach())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", type=Path, metavar="FOLDER")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", default="adanet-2speakers-8khz", help="Separated the recordings.")
    parser.add_argument("--encoder", type=Path, default=SPEAKER_ENCODER, help="Recognizes voices.")
    parser.add_argument("--init-from", type=Path, help="Network to go on from.")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    try:
        system, encoder = separator(arguments.model), load_speaker_encoder(arguments.encoder)
        stft = FineMasks(system).stft
        config = SpeakerActivityConfig(
            sample_rate=system.sample_rate,
            window_length=stft.window_length,
            hop=stft.hop,
            voice=encoder.config.dim,
        )
        begun = arguments.init_from
        network = SpeakerActivity(config) if begun is None else load_speaker_activity(begun)
        recordings = ActivityRecordings(arguments.recordings, system, encoder)
        train_speaker_activity(
            recordings, network.train().requires_grad_(), arguments.output, arguments.steps
        )
    except UnmingleError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
