"""Separated recordings from which the network of :mod:`unmingle.speaker_activity` learns."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unmingle.audio import Samples
from unmingle.data.cache import decode
from unmingle.data.conversations import ConversationConfig
from unmingle.data.corpora import read_corpora
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig
from unmingle.errors import UnmingleError
from unmingle.permutation import best_permutation, pairwise_si_sdr
from unmingle.separation.speaking_alone import activity_inputs, speaker_voices
from unmingle.separation.turns import PIECE_SECONDS, hear, recognize_turns, shares
from unmingle.separation.voice_clusters import Heard
from unmingle.speaker_activity import ActivityInputs
from unmingle.speaker_encoder import SpeakerEncoder
from unmingle.systems import MaskingSystem
from unmingle.temporary import replace_files

_SECONDS = 32.0
"""Length of a recording: one window of :mod:`unmingle.separation.windows`."""
_CONVERSATIONS = 0.9
"""Share of the recordings with turns. In the others all speak all the time."""


def separate_recordings(
    corpora: Sequence[str],
    system: MaskingSystem,
    encoder: SpeakerEncoder,
    folder: Path,
    counts: dict[int, int],
    seed: int = 0,
) -> None:
    """Mix recordings of the training split, separate them, and write all that is needed to ``folder``.

    Recordings that are already there stay.

    Args:
        corpora: folders.
        system: separates.
        encoder: recognizes voices.
        folder: gets a file per recording.
        counts: by number of speakers, how many recordings.
        seed: of the mixtures.

    Raises:
        UnmingleError: the corpora are missing or malformed.
    """
    utterances = read_corpora(list(corpora), "train")
    speech = decode(utterances, system.sample_rate)
    for speakers, count in counts.items():
        config = MixingConfig(
            speakers=speakers,
            snr=(0.0, 5.0),
            speed=(0.9, 1.1),
            conversation=ConversationConfig(share=_CONVERSATIONS),
        )
        mixer = Mixer(utterances, speech, system.sample_rate, config, seed=seed)
        for index in range(count):
            path = folder / f"{speakers}-{index}.npz"
            if path.exists():
                continue
            sources = mixer.example(index, round(_SECONDS * system.sample_rate)).sources
            _separate(system, encoder, sources, path)


@torch.no_grad()
def _separate(system: MaskingSystem, encoder: SpeakerEncoder, sources: Samples, path: Path) -> None:
    speakers, samples = sources.shape
    sources = sources / max(float(np.abs(sources.sum(axis=0)).max()), float(np.abs(sources).max()))
    mixture = torch.from_numpy(sources.sum(axis=0))[None]
    spectra, masks, _ = system.mask_and_attractors(mixture, system.speakers)
    estimates = system.frontend.stft.synthesise(masks[0] * spectra.spectrum[0], samples).numpy()
    heard = hear(encoder, estimates, system.sample_rate)
    places = [np.arange(system.speakers)]
    labels = recognize_turns([heard], places, system.speakers, speakers).labels[0]
    given = np.einsum("skt,st->kt", shares(labels, speakers, samples, 1 / system.sample_rate), estimates)
    scores = pairwise_si_sdr(torch.from_numpy(given)[None], torch.from_numpy(sources)[None])
    order = best_permutation(scores)[1][0].numpy()
    content = io.BytesIO()
    np.savez(
        content,
        sources=np.round(sources[np.argsort(order)] * 32767).astype(np.int16),
        masks=np.round(masks[0].numpy() * 255).astype(np.uint8),
        labels=labels.astype(np.int8),
        voices=heard.voices,
        presence=heard.presence.astype(np.float32),
    )
    replace_files([(path, content.getbuffer())])


class ActivityRecordings:
    """Draws batches of crops.

    Args:
        folder: of :func:`separate_recordings`.
        system: the one that separated them.
        pieces: length of a crop, in pieces of :mod:`unmingle.separation.turns`.

    Raises:
        UnmingleError: the folder has no recordings.
    """

    def __init__(self, folder: Path, system: MaskingSystem, pieces: int = 34) -> None:
        self._stft, self._hop = system.frontend.stft, system.hop
        self._frame_seconds, self._pieces = system.hop / system.sample_rate, pieces
        self._paths: dict[int, list[Path]] = {}
        for path in sorted(folder.glob("*-*.npz")):
            self._paths.setdefault(int(path.name.split("-")[0]), []).append(path)
        if not self._paths:
            raise UnmingleError(f"{folder} has no separated recordings.")

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, ActivityInputs]:
        """Spectra of the sources ``(batch, speakers, frames, freqs)``, and what the network sees.

        All crops of a batch have the same number of speakers.
        """
        numbers = sorted(self._paths)
        share = np.array([len(self._paths[number]) for number in numbers], dtype=float)
        paths = self._paths[int(rng.choice(numbers, p=share / share.sum()))]
        drawn = [self._crop(rng, paths[number]) for number in rng.integers(len(paths), size=size)]
        fields = ("power", "masks", "nearest", "likeness", "voices")
        inputs = [torch.cat([getattr(each, name) for _, each in drawn]) for name in fields]
        return torch.stack([spectra for spectra, _ in drawn]), ActivityInputs(*inputs)

    def _crop(self, rng: np.random.Generator, path: Path) -> tuple[Tensor, ActivityInputs]:
        with np.load(path) as data:
            stored = {name: data[name] for name in data.files}
        labels, presence = stored["labels"].astype(np.intp), stored["presence"]
        whole = Heard(stored["voices"], presence, np.zeros(0), 1.0)
        voices = speaker_voices([whole], [labels], len(stored["sources"]))
        first = int(rng.integers(labels.shape[1] - self._pieces))
        pieces = slice(first, first + self._pieces)
        begin, frames = (round(n * PIECE_SECONDS / self._frame_seconds) for n in (first, self._pieces))
        audio = stored["sources"][:, begin * self._hop : (begin + frames - 1) * self._hop]
        spectra = self._stft.analyse(torch.from_numpy(audio.astype(np.float32) / 32767))
        masks = torch.from_numpy(stored["masks"][:, begin : begin + frames]).float() / 255
        heard = Heard(whole.voices[:, pieces], presence[:, pieces], np.zeros(0), 1.0)
        magnitude = spectra.sum(dim=0).abs()
        return spectra, activity_inputs(
            magnitude, masks, heard, labels[:, pieces], voices, self._frame_seconds
        )
