"""Train a speaker encoder (see :mod:`unmingle.speaker_encoder`).

    python -m unmingle.training.speaker_encoder CORPUS [CORPUS ...] -o ENCODER.safetensors [--steps 3000]

The objective is the angular prototypical loss (Chung et al. 2020, "In defence of metric learning for speaker
recognition", Eq. 5 with one support segment, in both directions): each segment must find the other segment of its
speaker among those of all speakers of the batch. The equal error rate on speakers of the validation split is printed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unmingle.audio import Samples
from unmingle.data.cache import decode
from unmingle.data.corpora import read_corpora
from unmingle.errors import UnmingleError
from unmingle.speaker_encoder import SpeakerEncoder, SpeakerEncoderConfig, save_speaker_encoder
from unmingle.temporary import check_writable
from unmingle.training.schedule import held_then_decayed
from unmingle.training.speaker_segments import SpeakerSegments

_RATE, _WARMUP, _CONSTANT = 2e-3, 100, 0.4
"""Learning rate; steps in which it rises; share of the steps until it decays."""
_REPORT_EVERY = 100


class PrototypicalLoss(nn.Module):
    """Angular prototypical loss of two segments per speaker."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.offset = nn.Parameter(torch.tensor(-5.0))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Loss of unit-norm embeddings ``(speakers, dim)`` of the speakers' first and second segments."""
        scores = self.scale * first @ second.T + self.offset
        own = torch.arange(len(first))
        return (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2


def train_speaker_encoder(
    corpora: Sequence[str], output: Path, steps: int, speakers: int = 64, seed: int = 0
) -> SpeakerEncoder:
    """Train an encoder on the training split of corpora, and write it to ``output``.

    Raises:
        UnmingleError: the corpora are missing or malformed, or the file cannot be written.
    """
    check_writable(output.absolute().parent)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    encoder, loss_of = SpeakerEncoder(SpeakerEncoderConfig()), PrototypicalLoss()
    segments = _segments(corpora, "train", encoder.config.sample_rate, speakers)
    parameters = [*encoder.parameters(), *loss_of.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=1e-3)
    began, losses, seconds = time.monotonic(), [], 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * held_then_decayed(step, steps, _WARMUP, _CONSTANT, least=0.01)
        batch = segments.batch(rng)
        features = encoder.features(torch.from_numpy(batch.reshape(-1, batch.shape[-1])))
        embeddings = encoder.pool(encoder.frames(_masked(rng, features)))
        loss = loss_of(*embeddings.chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        seconds += batch.size / encoder.config.sample_rate
        if (step + 1) % _REPORT_EVERY == 0:
            minutes = (time.monotonic() - began) / 60
            print(
                f"step {step + 1}/{steps}  {seconds / 3600:.1f} h  {minutes:.1f} min  loss {np.mean(losses):.3f}",
                flush=True,
            )
            losses = []
            save_speaker_encoder(encoder, output)
    save_speaker_encoder(encoder, output)
    return encoder.eval()


def equal_error_rate(encoder: SpeakerEncoder, pairs: Samples) -> float:
    """Share of wrong decisions at the threshold where both kinds of errors are equally frequent.

    Args:
        encoder: in evaluation mode.
        pairs: two segments of each of some speakers, ``(2, speakers, samples)``.
    """
    with torch.inference_mode():
        first, second = (encoder(torch.from_numpy(side)) for side in pairs)
    scores = (first @ second.T).numpy()
    own = np.eye(len(scores), dtype=bool)
    same, different = scores[own], scores[~own]
    thresholds = np.sort(scores.ravel())
    missed = np.array([(same < threshold).mean() for threshold in thresholds])
    accepted = np.array([(different >= threshold).mean() for threshold in thresholds])
    best = int(np.abs(missed - accepted).argmin())
    return float((missed[best] + accepted[best]) / 2)


def _segments(corpora: Sequence[str], split: str, sample_rate: int, speakers: int) -> SpeakerSegments:
    utterances = read_corpora(list(corpora), split)
    return SpeakerSegments(utterances, decode(utterances, sample_rate), sample_rate, speakers)


def _masked(rng: np.random.Generator, features: Tensor) -> Tensor:
    """Features with a random group of bands and of frames at their mean (Park et al. 2019, SpecAugment)."""
    masked = features.clone()
    for segment, mean in zip(masked, features.mean(dim=(1, 2)), strict=True):
        frame, band = rng.integers(segment.shape[0]), rng.integers(segment.shape[1])
        segment[:, band : band + rng.integers(8)] = mean
        segment[frame : frame + rng.integers(12)] = mean
    return masked


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", nargs="+", metavar="CORPUS")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--speakers", type=int, default=64, help="Speakers in a batch.")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        encoder = train_speaker_encoder(
            arguments.corpora, arguments.output, arguments.steps, arguments.speakers
        )
        test = _segments(arguments.corpora, "valid", encoder.config.sample_rate, arguments.speakers)
    except UnmingleError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    rates = [equal_error_rate(encoder, test.batch(np.random.default_rng(seed))) for seed in range(50)]
    print(f"equal error rate on speakers of the validation split: {100 * np.mean(rates):.1f} %")


if __name__ == "__main__":
    main()
