"""What the errors in conversations cost: which speaker is heard alone, whether several are, and the masks.

    python benchmarks/conversation_errors.py CORPUS MODEL [--activity FILE] [--split valid] [--count 60]

The conversations are those of `separator_scores.py`, two speakers in 30 s. Each row replaces some decisions of
`unmingle separate` by the right ones, which are known from the sources:

- model: the masks as they are;
- voices: pieces of the estimates go to speakers by voice;
- activity: frames of one speaker go to that speaker as a whole, as the activity network says;
- right speaker: the network says that one speaker is heard alone, and the right one gets the frame;
- right number: the network says who it is, where one speaker is really heard alone;
- right answers: both are right, and only the masks are wrong.

The residual is not shared out. Columns: mean SI-SDR in dB, its median and 10th percentile, and the share of
single-speaker speech in the wrong file.
"""

from __future__ import annotations

import argparse
import datetime
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from separator_scores import LIST_RATE, LISTS, SCORE_RATE, Corpus, improvement
from torch import Tensor
from torch.nn import functional

from unmingle.audio import Samples, resample
from unmingle.evaluation.conversation_scores import wrong_speaker_share
from unmingle.separation.fine_masks import FineMasks
from unmingle.separation.speaking_alone import (
    activity_inputs,
    alone_or_several,
    shares_of_frames,
    speaker_voices,
)
from unmingle.separation.turns import hear, recognize_turns, shares
from unmingle.speaker_activity import SPEAKER_ACTIVITY, SpeakerActivity, load_speaker_activity
from unmingle.speaker_encoder import SPEAKER_ENCODER, SpeakerEncoder, load_speaker_encoder
from unmingle.systems import EmbeddingSeparator
from unmingle.training.separated_recordings import separator

_SPEAKERS = 2


class Conversation:
    """A conversation and its masks; :meth:`score` scores a way to share them out."""

    def __init__(self, system: EmbeddingSeparator, mixture: Samples, sources: Samples) -> None:
        self.mixture, self.sources = mixture, sources
        fine = FineMasks(system)
        self._stft, self.seconds = fine.stft, fine.hop / system.sample_rate
        found = fine.of(torch.from_numpy(mixture), _SPEAKERS)
        self.spectrum, self.magnitude, self.masks = found.spectrum, found.spectrum.abs(), found.masks
        self.frames = self.masks.shape[1]
        self.spectra = self._stft.analyse(torch.from_numpy(sources))[:, : self.frames]

    def given(self, share: Samples) -> Tensor:
        """Masks of the speakers ``(speakers, frames, freqs)``, of shares ``(sources, speakers, frames)``."""
        return torch.einsum("skt,stf->ktf", torch.from_numpy(share.astype(np.float32)), self.masks)

    def estimates(self, share: Samples) -> Samples:
        """``(speakers, samples)``."""
        found: Samples = self._stft.synthesise(self.given(share) * self.spectrum, len(self.mixture)).numpy()
        return found

    def score(self, share: Samples) -> tuple[float, float]:
        """SI-SDR in dB, and the share of speech in the wrong file."""
        _, value, ordered = improvement(self.estimates(share), self.sources, self.mixture)
        return value, wrong_speaker_share(ordered, self.sources, SCORE_RATE)

    def errors(self, share: Samples) -> Tensor:
        """Energy of the error of each answer in each frame: each speaker alone, and several, ``(3, frames)``."""
        error = (self.spectrum - self.spectra).abs().square().sum(dim=-1)
        energy = self.spectra.abs().square().sum(dim=-1)
        alone = error + energy.sum(dim=0) - energy
        several = (self.given(share) * self.spectrum - self.spectra).abs().square().sum(dim=(0, -1))
        return torch.cat([alone, several[None]])


def rows(
    conversation: Conversation, encoder: SpeakerEncoder, network: SpeakerActivity
) -> dict[str, tuple[float, float]]:
    """The scores of all rows."""
    as_it_is = np.repeat(np.eye(_SPEAKERS)[..., None], conversation.frames, axis=2)
    heard = hear(encoder, conversation.estimates(as_it_is), SCORE_RATE)
    labels = recognize_turns([heard], [np.arange(_SPEAKERS)], _SPEAKERS, _SPEAKERS).labels[0]
    share = shares(labels, _SPEAKERS, conversation.frames, conversation.seconds)
    estimates = conversation.estimates(share)
    _, _, ordered = improvement(estimates, conversation.sources, conversation.mixture)
    if not np.array_equal(ordered, estimates):
        # From here on, source k is that of speaker k.
        conversation.spectra = conversation.spectra.flip(0)
    voices = speaker_voices([heard], [labels], _SPEAKERS)
    inputs = activity_inputs(
        conversation.magnitude, conversation.masks, heard, labels, voices, conversation.seconds
    )
    chances = alone_or_several(network, inputs)
    errors = conversation.errors(share)
    several = _one_hot(errors.argmin(dim=0), _SPEAKERS + 1)[-1:]
    who = _one_hot(errors[:-1].argmin(dim=0), _SPEAKERS)
    chances_of_who = chances[:-1] / np.maximum(chances[:-1].sum(axis=0), 1e-6)

    def score(who: Samples, several: Samples) -> tuple[float, float]:
        answers = np.concatenate([who * (1 - several), several]).astype(np.float32)
        return conversation.score(shares_of_frames(share, answers, np.ones(_SPEAKERS, dtype=bool)))

    return {
        "model": conversation.score(as_it_is),
        "voices": conversation.score(share),
        "activity": score(chances_of_who, chances[-1:]),
        "right speaker": score(who, chances[-1:]),
        "right number": score(chances_of_who, several),
        "right answers": score(who, several),
    }


def _one_hot(numbers: Tensor, count: int) -> Samples:
    found: Samples = functional.one_hot(numbers, count).T.numpy().astype(np.float32)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("model")
    parser.add_argument("--activity", type=Path, default=SPEAKER_ACTIVITY)
    parser.add_argument("--encoder", type=Path, default=SPEAKER_ENCODER)
    parser.add_argument("--split", default="valid")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    system = separator(arguments.model)
    encoder, network = load_speaker_encoder(arguments.encoder), load_speaker_activity(arguments.activity)
    wanted = replace(next(each for each in LISTS if each.name == "conversations"), count=arguments.count)
    print(
        f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}, split {arguments.split}\n"
    )
    found: dict[str, list[tuple[float, float]]] = {}
    for mixture, sources in Corpus(arguments.corpus, arguments.split).mixtures(wanted):
        low, references = (resample(audio, LIST_RATE, SCORE_RATE) for audio in (mixture, sources))
        for name, scores in rows(Conversation(system, low, references), encoder, network).items():
            found.setdefault(name, []).append(scores)
    print("| row | SI-SDR | median | 10th percentile | wrong file |\n| --- | --- | --- | --- | --- |")
    for name, each in found.items():
        values, wrong = np.array(each).T
        low, middle = np.percentile(values, [10, 50])
        share = 100 * np.nanmean(wrong)
        print(f"| {name} | {values.mean():.2f} | {middle:.2f} | {low:.2f} | {share:.1f} % |")


if __name__ == "__main__":
    main()
