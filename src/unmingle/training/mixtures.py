"""The mixtures of a run: for training, and fixed ones for validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from unmingle.data.batches import MixtureSource, as_batch
from unmingle.data.cache import DecodedSpeech, JoinedSpeech, decode, default_cache_folder
from unmingle.data.corpora import Utterance, read_corpora, read_noise
from unmingle.data.examples import Example, active_sources
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig
from unmingle.data.noise import SYNTHETIC, NoiseMaker
from unmingle.data.premixed import PremixedMixtures, is_premixed
from unmingle.data.room_bank import RoomBank, open_room_bank
from unmingle.data.streaming import StreamConfig, StreamedMixtures, check_speakers
from unmingle.data.tar_files import any_tars, find_tars, open_tar
from unmingle.errors import UnmingleError
from unmingle.metrics import LIMIT_DB
from unmingle.permutation import best_permutation, pairwise_si_sdr
from unmingle.systems import System
from unmingle.training.recipe import Recipe, Stage

_BATCH = 25


def prepare(recipe: Recipe, cache: Path | None, on_decoded: Callable[[int, int], None] | None = None) -> None:
    """Decode the data of a run once, before worker processes start.

    Raises:
        UnmingleError: the data is missing or malformed.
    """
    if any_tars(recipe.data):
        for split in ("train", "valid"):
            find_tars(recipe.data, split)
        if recipe.mixing.noise is not None:
            for split in ("train", "valid"):
                recordings = _noise(recipe.noise_data, recipe.data, split)
                decode(recordings, recipe.system.sample_rate, cache, on_decoded)
    elif any_premixed(recipe.data):
        for stage in recipe.stages:  # Missing data is an error before any work.
            training_mixer(recipe, cache, stage)
            validation_mixer(recipe, cache, stage)
    for split in ("train", "valid"):
        if not any_tars(recipe.data) and not any_premixed(recipe.data):
            decode(read_corpora(recipe.data, split), recipe.system.sample_rate, cache, on_decoded)
            if recipe.mixing.noise is not None:
                noise = _noise(recipe.noise_data, recipe.data, split)
                decode(noise, recipe.system.sample_rate, cache, on_decoded)
    if recipe.mixing.room is not None and recipe.mixing.room.bank:
        _room_bank(recipe.mixing, recipe.system.sample_rate, recipe.seed, cache)


def training_mixer(recipe: Recipe, cache: Path | None, stage: Stage | None = None) -> MixtureSource:
    """Mixtures of the training split by the recipe, or by one of its stages."""
    mixing = _of_stage(recipe.mixing, stage)
    source = open_mixtures(
        recipe.data,
        "train",
        recipe.system.sample_rate,
        mixing,
        recipe.seed,
        cache,
        recipe.noise_data,
        recipe.stream,
    )
    return _with_all_sources(source, recipe, mixing)


def _of_stage(mixing: MixingConfig, stage: Stage | None) -> MixingConfig:
    """The recipe's settings with the numbers of speakers of a stage."""
    if stage is None:
        return mixing
    most = stage.most_speakers or mixing.speakers
    fewest = stage.fewest_speakers or mixing.fewest_speakers
    return mixing.model_copy(update={"speakers": most, "fewest_speakers": fewest and min(fewest, most)})


class _WithAllSources:
    """Mixtures with silent sources added, up to the system's number of speakers."""

    def __init__(self, source: MixtureSource, speakers: int) -> None:
        self._source, self._speakers = source, speakers
        self.sample_rate, self.seed = source.sample_rate, source.seed

    def example(self, index: int, samples: int) -> Example:
        self._source.seed = self.seed
        example = self._source.example(index, samples)
        lacking = self._speakers - len(example.sources)
        return replace(example, sources=np.pad(example.sources, ((0, lacking), (0, 0))))


def _with_all_sources(source: MixtureSource, recipe: Recipe, mixing: MixingConfig) -> MixtureSource:
    most = recipe.mixing.speakers
    return source if mixing.speakers == most else _WithAllSources(source, most)


def validation_mixer(recipe: Recipe, cache: Path | None, stage: Stage | None = None) -> MixtureSource:
    """Mixtures of the validation split at original speed, without effects of microphones and recorders.

    The numbers of speakers are those of the stage, or of the recipe. A share of ``validation.conversations`` are
    conversations; in the others all speakers speak all the time. A share of ``mixing.late`` starts late.
    """
    mixing = _of_stage(_of_validation(recipe), stage)
    fewest, noise, talk = mixing.fewest_speakers, mixing.noise, mixing.conversation
    share = recipe.validation.conversations
    changes = {
        "conversation": talk.model_copy(update={"share": share}) if talk and share else None,
        "moving_level": 0.0,
        "speed": (1.0, 1.0),
        "formants": (1.0, 1.0),
        "partial_overlap": 0.0,
        "single_speaker": 0.0,
        "second_speaker": 0.0,
        "microphone": None,
        "recorder": None,
        # A single speaker's mixture cannot be improved.
        "fewest_speakers": fewest and min(max(2, fewest), mixing.speakers),
        "noise": noise and noise.model_copy(update={"noise_only": 0.0}),
    }
    source = open_mixtures(
        recipe.data,
        "valid",
        recipe.system.sample_rate,
        mixing.model_copy(update=changes),
        recipe.validation.seed,
        cache,
        recipe.noise_data,
    )
    return _with_all_sources(source, recipe, mixing)


def _of_validation(recipe: Recipe) -> MixingConfig:
    """The recipe's settings without weights of corpora that are not in the validation split."""
    mixing = recipe.mixing
    weights, noise = mixing.corpus_weights, mixing.noise
    if weights and not any_tars(recipe.data) and not any_premixed(recipe.data):
        names = {utterance.corpus for utterance in read_corpora(recipe.data, "valid")}
        weights = {name: weight for name, weight in weights.items() if name in names}
    if noise is not None and noise.weights:
        there = {each.corpus for each in _noise(recipe.noise_data, recipe.data, "valid")}
        kept = {name: weight for name, weight in noise.weights.items() if name in {*there, *SYNTHETIC}}
        noise = noise.model_copy(update={"weights": kept})
    return mixing.model_copy(update={"corpus_weights": weights, "noise": noise})


def open_mixtures(
    data: Sequence[str],
    split: str,
    sample_rate: int,
    mixing: MixingConfig,
    seed: int,
    cache: Path | None,
    noise_data: Sequence[str] = (),
    stream: StreamConfig | None = None,
) -> MixtureSource:
    """Mixtures of a split: drawn from corpora or tar files, or from folders of existing mixtures.

    Noise comes from ``noise_data``, or from ``noise.csv`` in the corpora if ``noise_data`` is empty. Tar files for
    training are streamed as ``stream`` says. Those of another split are decoded and kept.

    Raises:
        UnmingleError: the data is missing or malformed.
    """
    if any_premixed(data):
        fewest = mixing.fewest_speakers
        return PremixedMixtures(
            [Path(d) for d in data], split, sample_rate, mixing.speakers, seed, fewest=fewest
        )
    utterances = [] if any_tars(data) else read_corpora(data, split)
    recordings, decoded_noise = None, None
    if mixing.noise is not None:
        recordings = _noise(noise_data, data, split)
        decoded_noise = decode(recordings, sample_rate, cache)
    banked = mixing.room is not None and mixing.room.bank
    rooms = _room_bank(mixing, sample_rate, seed, cache) if banked else None
    make = partial(
        _mixer,
        sample_rate=sample_rate,
        mixing=mixing,
        rooms=rooms,
        recordings=recordings,
        noise=decoded_noise,
    )
    if utterances:
        return make(utterances, decode(utterances, sample_rate, cache), seed)
    tars = find_tars(data, split)
    make = partial(_windowed_mixer, make=make, mixing=mixing)
    if split == "train":
        return StreamedMixtures(tars, sample_rate, stream or StreamConfig(), seed, make, cache)
    parts = [open_tar(tar, sample_rate, cache or default_cache_folder()) for tar in tars]
    utterances = [utterance for part in parts for utterance in part.utterances]
    return make(utterances, JoinedSpeech([part.speech for part in parts]), seed)


def _mixer(
    utterances: Sequence[Utterance],
    speech: DecodedSpeech | JoinedSpeech,
    seed: int,
    *,
    sample_rate: int,
    mixing: MixingConfig,
    rooms: RoomBank | None,
    recordings: Sequence[Utterance] | None,
    noise: DecodedSpeech | None,
) -> Mixer:
    maker = None
    if mixing.noise is not None and recordings is not None and noise is not None:
        # A corpus with weight 0 is not used for babble either.
        wanted = mixing.corpus_weights
        babblers = [k for k, one in enumerate(utterances) if wanted.get(one.corpus, 1.0) > 0]
        maker = NoiseMaker(recordings, noise, speech, sample_rate, mixing.noise, babblers)
    return Mixer(utterances, speech, sample_rate, mixing, seed, maker, rooms)


def _windowed_mixer(
    utterances: Sequence[Utterance],
    speech: JoinedSpeech,
    seed: int,
    *,
    make: partial[Mixer],
    mixing: MixingConfig,
) -> Mixer:
    """A mixer of some tar files, which need not have all corpora that the weights name."""
    check_speakers(utterances, mixing.most_at_once)
    there = {utterance.corpus for utterance in utterances}
    weights = {name: weight for name, weight in mixing.corpus_weights.items() if name in there}
    return make(utterances, speech, seed, mixing=mixing.model_copy(update={"corpus_weights": weights}))


def _room_bank(mixing: MixingConfig, sample_rate: int, seed: int, cache: Path | None) -> RoomBank:
    assert mixing.room is not None
    return open_room_bank(mixing.room, mixing.most_at_once, sample_rate, seed, cache)


def _noise(noise_data: Sequence[str], data: Sequence[str], split: str) -> list[Utterance]:
    if not noise_data and any_tars(data):
        raise UnmingleError("With tar files, noise comes from a corpus of its own; give it with --noise.")
    return read_noise(noise_data, split) if noise_data else read_noise(data, split, beside_speech=True)


def any_premixed(data: Sequence[str]) -> bool:
    """Whether the data are folders of existing mixtures.

    Raises:
        UnmingleError: some are folders of mixtures and others are corpora.
    """
    premixed = [is_premixed(Path(source)) for source in data]
    if any(premixed) and not all(premixed):
        raise UnmingleError(
            "Training cannot combine folders of mixtures with corpora; give --data of one kind."
        )
    return any(premixed)


class Validation:
    """The validation mixtures of one process and one stage, rendered once."""

    def __init__(
        self, recipe: Recipe, cache: Path | None, rank: int, world_size: int, stage: Stage | None = None
    ) -> None:
        mixer = validation_mixer(recipe, cache, stage)
        samples = round(recipe.validation.seconds * mixer.sample_rate)
        mine = range(rank, recipe.validation.count, world_size)
        groups: dict[int, list[Example]] = {}
        for index in mine:
            example = mixer.example(index, samples)
            active = active_sources(example)
            # Silent sources come last.
            ordered = np.concatenate([example.sources[active], example.sources[~active]])
            groups.setdefault(int(active.sum()), []).append(replace(example, sources=ordered))
        self._batches = [
            (number, as_batch(group[k : k + _BATCH]))
            for number, group in groups.items()
            for k in range(0, len(group), _BATCH)
        ]

    def sums(self, system: System, device: torch.device) -> torch.Tensor:
        """Four sums over mixtures, ``(4,)``: SI-SDR improvement in dB and its count, loss and its count.

        The number of speakers is given to the system. The improvement is counted where there is one: not for a single
        speaker without noise. A two-stage system whose second part is not trained yet is scored by its first part.
        """
        system.eval()
        sums = torch.zeros(4)
        for number, batch in self._batches:
            with torch.no_grad():
                loss = float(system.loss(batch.to(device))["loss"])
            sums += torch.tensor([0.0, 0.0, loss * len(batch.mixture), float(len(batch.mixture))])
            if number == 0:
                continue
            references = batch.sources[:, :number]
            separated = system.trained_system().separate(batch.mixture.to(device), number)
            estimates = separated.sources.cpu()
            mixture = batch.mixture.unsqueeze(1).expand_as(estimates)
            after, _ = best_permutation(pairwise_si_sdr(estimates, references))
            before, _ = best_permutation(pairwise_si_sdr(mixture, references))
            counted = before < LIMIT_DB  # Not a single speaker without noise: nothing can be improved.
            sums += torch.tensor([float((after - before)[counted].sum()), float(counted.sum()), 0.0, 0.0])
        system.train()
        return sums
