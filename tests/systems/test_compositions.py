"""Every system's whole loss and masks against the papers' equations in NumPy (:mod:`naive`), from end to end.

Only the networks' own layers are the package's: what goes into them, and all that follows, is worked out anew,
one mixture at a time and without padding.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import naive
from conftest import TINY_BLSTM, TINY_CNN, tiny_values
from naive import Array
from unmingle.audio import Samples
from unmingle.batch import MixtureBatch
from unmingle.networks import BlstmConfig, BlstmEmbedding
from unmingle.systems import (
    Denoiser,
    DenoiserConfig,
    EmbeddingSeparator,
    EmbeddingSeparatorConfig,
    LocalExperts,
    LocalExpertsConfig,
    MaskInference,
    MaskInferenceConfig,
    MaskingSystem,
    TwoStage,
    TwoStageConfig,
)

HOP = 128
LENGTHS = (1536, 1152)
"""Whole hops, so that no frame reaches from padding back into the mixture."""


def _mixtures(speech: Samples) -> list[tuple[Array, Array]]:
    """Mixtures ``(samples,)`` and their sources, of :data:`LENGTHS`."""
    starts = (20000, 40000)
    sources = [speech[:, k : k + n].astype(np.float64) for k, n in zip(starts, LENGTHS, strict=True)]
    return [(each.sum(axis=0), each) for each in sources]


def _batch(mixtures: list[tuple[Array, Array]], **facts: Tensor) -> MixtureBatch:
    """The mixtures with silence behind the shorter ones."""
    longest = max(len(mixture) for mixture, _ in mixtures)
    padded = [np.pad(sources, ((0, 0), (0, longest - sources.shape[1]))) for _, sources in mixtures]
    noisy = [np.pad(mixture, (0, longest - len(mixture))) for mixture, _ in mixtures]
    sources = torch.tensor(np.stack(padded), dtype=torch.float32)
    lengths = None if len({len(m) for m, _ in mixtures}) == 1 else torch.tensor([len(m) for m, _ in mixtures])
    return MixtureBatch(
        torch.tensor(np.stack(noisy), dtype=torch.float32),
        sources,
        sources.abs().sum(dim=-1) > 0,
        lengths=lengths,
        **facts,
    )


def _run(network: nn.Module, values: Array) -> Array:
    """A network's output for one sequence."""
    with torch.no_grad():
        output = network(torch.tensor(values, dtype=torch.float32).unsqueeze(0))
    return output[0].double().numpy()


def _statistics(system: MaskingSystem) -> None:
    """Stored means and deviations that are not 0 and 1."""
    generator = torch.Generator().manual_seed(5)
    for name, buffer in system.named_buffers():
        if name.endswith("frontend.mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) - 3)
        elif name.endswith("frontend.deviation"):
            buffer.copy_(1 + torch.rand(buffer.shape, generator=generator))
    if isinstance(system, TwoStage):
        system.first.frontend.load_state_dict(system.frontend.state_dict())


def _spectrum(system: MaskingSystem, audio: Array) -> naive.Complex:
    stft = system.config.stft
    return naive.stft(audio, stft.window_length, stft.hop, stft.window == "sqrt_hann")


def _features(system: MaskingSystem, magnitude: Array) -> Array:
    stft = system.config.stft
    of = naive.log_features if stft.feature == "log_magnitude" else naive.plain_features
    levels = naive.level(magnitude) if stft.level == "whole" else naive.running_level(magnitude)
    mean, deviation = system.frontend.mean.double().numpy(), system.frontend.deviation.double().numpy()
    return of(magnitude, levels, mean, deviation)


def _error(
    system: MaskingSystem, mixture: Array, sources: Array, masks: Array, *, ordered: bool = False
) -> float:
    """The objective of the system's config: smaller is better."""
    objective, spectrum = system.config.model_dump()["objective"], _spectrum(system, mixture)
    if objective in ("si_sdr", "snr", "si_sdr_and_spectrum"):
        stft = system.config.stft
        size = (stft.window_length, stft.hop, len(mixture), stft.window == "sqrt_hann")
        estimates = np.stack([naive.istft(mask * spectrum, *size) for mask in masks])
        errors = naive.waveform_errors(estimates, sources, mixture, objective != "snr")
        if objective == "si_sdr_and_spectrum":
            for length in (stft.window_length // 2, stft.window_length, 2 * stft.window_length):
                errors += 400 / 3 * naive.compressed_spectrum_errors(estimates, sources, mixture, length)
    else:
        rule = {
            "mask_error": naive.mask_errors,
            "magnitude_error": naive.magnitude_errors,
            "phase_sensitive_error": naive.phase_sensitive_errors,
        }[objective]
        errors = rule(spectrum, masks, np.stack([_spectrum(system, s) for s in sources]))
    return float(np.diagonal(errors).mean()) if ordered else naive.least_over_orders(errors)


def _assert_loss(system: MaskingSystem, batch: MixtureBatch, expected: list[float]) -> None:
    assert float(system.loss(batch)["loss"].detach()) == pytest.approx(np.mean(expected), rel=1e-3)


def _assert_masks(found: Array, expected: Array, *, any_order: bool = False) -> None:
    """Equal but for a bin or two on the line between two speakers."""
    orders = permutations(range(len(expected))) if any_order else [tuple(range(len(expected)))]
    apart = min(float((np.abs(found - expected[list(order)]) > 2e-3).mean()) for order in orders)
    assert apart < 2e-3
    assert found.shape == expected.shape


def _masks(system: MaskingSystem, batch: MixtureBatch, speakers: int, sources: bool = False) -> list[Array]:
    """What the system gives for each mixture of a batch with padding."""
    with torch.no_grad():
        _, masks = system.mask(batch.mixture, speakers, batch.lengths, batch.sources if sources else None)
    return [mask[:, : n // HOP + 1].double().numpy() for mask, n in zip(masks, LENGTHS, strict=True)]


# --- embeddings and attractors


def _embedding_system(**changes: object) -> EmbeddingSeparator:
    """Its embeddings lie in clear clusters, so that any k-means finds the same ones."""
    torch.manual_seed(3)
    system = EmbeddingSeparator(EmbeddingSeparatorConfig.model_validate(tiny_values(**changes))).eval()
    _statistics(system)
    if isinstance(system.network, BlstmEmbedding):
        with torch.no_grad():
            system.network.linear.weight.mul_(2.0)
            bias = torch.eye(4)[torch.arange(129) % 2] - 0.3
            system.network.linear.bias.copy_(2.0 * bias.flatten())
    return system


_WEIGHTS: dict[str, Callable[[Array, float], Array]] = {
    "loudest": naive.loudest,
    "near_loudest": naive.near_loudest,
    "log_range": naive.log_range,
    "all": lambda magnitude, _: np.ones_like(magnitude),
}
_OWN_THRESHOLDS = {"loudest": 0.9, "near_loudest": 40.0, "log_range": 0.6, "all": 1.0}


def _embedded(system: EmbeddingSeparator, mixture: Array, *, training: bool) -> tuple[Array, Array]:
    """Embeddings and weights."""
    config, magnitude = system.config, np.abs(_spectrum(system, mixture))
    embedding = _run(system.network, _features(system, magnitude))
    rule = config.weight if training or config.evaluation_weight is None else config.evaluation_weight
    weight = _WEIGHTS[rule.rule](magnitude, rule.threshold or _OWN_THRESHOLDS[rule.rule])
    return naive.unit(embedding) if config.unit_norm else embedding, weight


def _ideal(system: EmbeddingSeparator, sources: Array) -> Array:
    of = naive.binary if system.config.assignment == "ibm" else naive.ratio
    silent = ~sources.any(axis=1)
    spectra = np.stack([_spectrum(system, s) for s in sources])
    masks = np.zeros(spectra.shape)
    masks[~silent] = of(spectra[~silent])
    return masks


def _attractor_masks(
    system: EmbeddingSeparator, mixture: Array, sources: Array, speakers: int, *, training: bool
) -> Array:
    config = system.config
    embedding, weight = _embedded(system, mixture, training=training)
    name = config.training_formation if training else config.formation
    if name == "oracle":
        shares = _ideal(system, sources)
        points = naive.centroids(embedding, shares, weight)
    elif name == "anchored":
        anchors = system.formation.anchors.detach().double().numpy()
        points, shares = naive.anchored(embedding, weight, anchors, speakers)
    elif name == "fixed":
        points = system.formation.points.double().numpy()[:speakers]
        shares = naive.softmax(naive.dots(embedding, points))
    else:
        shares = naive.kmeans(embedding, weight, speakers, spherical=name == "spherical_kmeans")
        points = naive.centroids(embedding, shares, weight)
        if name == "soft_kmeans":
            points, shares = naive.soft_kmeans(embedding, weight, config.hardness, points)
    rule = config.mask if training else config.evaluation_mask or config.mask
    if rule == "assignment":
        return shares
    logits = naive.dots(embedding, points)
    if config.learned_scale:
        logits = logits * float(system.log_scale.exp())
    masks = {
        "softmax": naive.softmax,
        "softmax_with_rest": naive.softmax_with_rest,
        "sigmoid": naive.sigmoid,
        "hard": naive.hard,
    }
    if name == "oracle" and training:
        talking = sources.any(axis=1)
        kept = np.zeros(logits.shape)
        kept[talking] = masks[rule](logits[talking])
        return kept
    return masks[rule](logits)


_LOSSES: dict[str, dict[str, object]] = {
    "ADANet": {},
    "ADANet with a rest": {"mask": "softmax_with_rest", "weight": {"threshold": 0.7}},
    "ADANet of three": {"speakers": 3, "anchors": 4},
    "DANet": {"training_formation": "oracle", "formation": "kmeans"},
    "DANet sigmoid": {"training_formation": "oracle", "formation": "kmeans", "mask": "sigmoid"},
    "DANet by IRM": {"training_formation": "oracle", "formation": "kmeans", "assignment": "irm"},
    "DANet, k-means inside": {"training_formation": "kmeans", "formation": "kmeans"},
    "DANet, directions inside": {"training_formation": "spherical_kmeans", "formation": "kmeans"},
    "Mobin": {
        "stft": {"hop": HOP, "window": "hann"},
        "network": TINY_CNN,
        "unit_norm": True,
        "training_formation": "oracle",
        "formation": "kmeans",
        "weight": {"rule": "log_range"},
        "objective": "magnitude_error",
    },
    "learned scale": {"unit_norm": True, "learned_scale": True, "objective": "magnitude_error"},
    "phase": {"objective": "phase_sensitive_error"},
    "waveform": {"objective": "si_sdr"},
    "waveform and level": {"objective": "snr", "training_formation": "oracle", "formation": "kmeans"},
    "soft k-means": {
        "unit_norm": True,
        "training_formation": "soft_kmeans",
        "formation": "soft_kmeans",
        "mask": "assignment",
        "objective": "magnitude_error",
        "unfolded_steps": 50,
        "weight": {"rule": "near_loudest", "threshold": 25.0},
    },
}


@pytest.mark.parametrize("name", _LOSSES)
def test_loss_of_attractor_systems(name: str, example_sources: Samples) -> None:
    system = _embedding_system(**_LOSSES[name])
    mixtures = _mixtures(example_sources)
    if system.speakers == 3:
        third = np.random.default_rng(0).standard_normal((1, 4000)) * 0.02
        more = [np.concatenate([s, third[:, : s.shape[1]]]) for _, s in mixtures]
        mixtures = [(s.sum(axis=0), s) for s in more]
    ordered = system.config.training_formation == "oracle"
    expected = [
        _error(
            system,
            mixture,
            sources,
            _attractor_masks(system, mixture, sources, len(sources), training=True),
            ordered=ordered,
        )
        for mixture, sources in mixtures
    ]
    _assert_loss(system, _batch(mixtures), expected)


@pytest.mark.parametrize("objective", ["mask_error", "magnitude_error", "si_sdr"])
def test_loss_where_a_speaker_is_missing(objective: str, example_sources: Samples) -> None:
    """The missing speaker's mask is nothing; its share of the error is what :mod:`naive` says of silence."""
    system = _embedding_system(
        speakers=3, training_formation="oracle", formation="kmeans", objective=objective
    )
    silent = [(m, np.concatenate([s, np.zeros((1, s.shape[1]))])) for m, s in _mixtures(example_sources)]
    expected = [
        _error(system, m, s, _attractor_masks(system, m, s, 3, training=True), ordered=True)
        for m, s in silent
    ]
    _assert_loss(system, _batch(silent), expected)


@pytest.mark.parametrize("assignment", ["ibm", "irm"])
@pytest.mark.parametrize(
    "weight",
    [{"rule": "near_loudest"}, {"rule": "loudest", "threshold": 0.5}, {"rule": "all"}, {"rule": "log_range"}],
    ids=lambda weight: weight["rule"],
)
def test_loss_of_deep_clustering(
    assignment: str, weight: dict[str, object], example_sources: Samples
) -> None:
    system = _embedding_system(
        unit_norm=True, objective="affinity", formation="kmeans", assignment=assignment, weight=weight,
        evaluation_weight={"rule": "loudest", "threshold": 0.3},
    )  # fmt: skip
    expected = []
    mixtures = _mixtures(example_sources)
    for mixture, sources in mixtures:
        embedding, used = _embedded(system, mixture, training=True)
        expected.append(naive.affinity(embedding, _ideal(system, sources), used))
    _assert_loss(system, _batch(mixtures), expected)


_FEW = {"rule": "loudest", "threshold": 0.2}
_AT_TEST: dict[str, dict[str, object]] = {
    "anchors": {"evaluation_weight": _FEW},
    "anchors' shares": {"evaluation_mask": "assignment"},
    "anchors, sigmoid": {"evaluation_mask": "sigmoid", "weight": {"rule": "near_loudest"}},
    "anchors, rest": {"mask": "softmax_with_rest"},
    "k-means": {"training_formation": "oracle", "formation": "kmeans", "evaluation_weight": _FEW},
    "k-means, binary": {"objective": "affinity", "formation": "kmeans", "evaluation_mask": "assignment"},
    "k-means, hard": {
        "unit_norm": True,
        "learned_scale": True,
        "formation": "kmeans",
        "evaluation_mask": "hard",
        "weight": {"rule": "log_range"},
    },
    "spherical": {"formation": "spherical_kmeans", "mask": "sigmoid", "evaluation_weight": _FEW},
    "soft k-means": {
        "unit_norm": True,
        "objective": "affinity",
        "formation": "soft_kmeans",
        "evaluation_mask": "assignment",
        "hardness": 2.0,
        "unfolded_steps": 50,
        "evaluation_weight": _FEW,
    },
    "fixed": {"training_formation": "oracle", "formation": "fixed", "mask": "sigmoid"},
    "fixed' shares": {"training_formation": "oracle", "formation": "fixed", "evaluation_mask": "assignment"},
    "ideal": {"training_formation": "oracle", "formation": "oracle", "evaluation_weight": _FEW},
    "ideal by IRM": {
        "training_formation": "oracle",
        "formation": "oracle",
        "assignment": "irm",
        "unit_norm": True,
        "learned_scale": True,
    },
}


@pytest.mark.parametrize("name", _AT_TEST)
def test_masks_of_attractor_systems(name: str, example_sources: Samples) -> None:
    system = _embedding_system(**_AT_TEST[name])
    if system.config.formation == "fixed":
        system.formation.points.copy_(torch.randn(2, 4, generator=torch.Generator().manual_seed(1)))
    mixtures = _mixtures(example_sources)
    for found, (mixture, sources) in zip(_masks(system, _batch(mixtures), 2, True), mixtures, strict=True):
        expected = _attractor_masks(system, mixture, sources, 2, training=False)
        _assert_masks(found, expected, any_order="kmeans" in system.config.formation)


def test_estimates_are_the_masked_mixture(example_sources: Samples) -> None:
    system = _embedding_system(stft={"hop": 64, "window": "hann"})
    (mixture, sources), _ = _mixtures(example_sources)
    spectrum = _spectrum(system, mixture)
    masks = _attractor_masks(system, mixture, sources, 2, training=False)
    expected = [naive.istft(spectrum * mask, 256, 64, len(mixture), root=False) for mask in masks]
    found = system.separate(torch.tensor(mixture, dtype=torch.float32).unsqueeze(0), 2).sources[0]
    np.testing.assert_allclose(found.detach().numpy(), np.stack(expected), atol=2e-5)


# --- masks from a network


_UPIT_OBJECTIVES = ["mask_error", "magnitude_error", "phase_sensitive_error", "si_sdr", "snr"]


def _upit_values(speakers: int = 2, **changes: Any) -> dict[str, object]:
    stft = {"hop": HOP, "feature": "magnitude"}
    return {"kind": "mask_inference", "speakers": speakers, "stft": stft, "network": TINY_BLSTM, **changes}


def _upit_masks(system: MaskInference, mixture: Array) -> Array:
    features = _features(system, np.abs(_spectrum(system, mixture)))
    return np.maximum(0, _run(system.network, features))


def _upit(**changes: Any) -> MaskInference:
    torch.manual_seed(4)
    system = MaskInference(MaskInferenceConfig.model_validate(_upit_values(**changes))).eval()
    _statistics(system)
    with torch.no_grad():
        system.network.linear.bias.add_(0.3)
    return system


@pytest.mark.parametrize("objective", _UPIT_OBJECTIVES)
def test_loss_and_masks_of_upit(objective: str, example_sources: Samples) -> None:
    system, mixtures = _upit(objective=objective), _mixtures(example_sources)
    masks = [_upit_masks(system, mixture) for mixture, _ in mixtures]
    _assert_loss(
        system, _batch(mixtures), [_error(system, *each, m) for each, m in zip(mixtures, masks, strict=True)]
    )
    for found, expected in zip(_masks(system, _batch(mixtures), 2), masks, strict=True):
        _assert_masks(found, expected)


def test_upit_asked_for_fewer_gives_the_loudest_first(example_sources: Samples) -> None:
    system, mixtures = _upit(speakers=3), _mixtures(example_sources)
    for found, (mixture, _) in zip(_masks(system, _batch(mixtures), 2), mixtures, strict=True):
        masks, magnitude = _upit_masks(system, mixture), np.abs(_spectrum(system, mixture))
        order = np.argsort([-((mask * magnitude) ** 2).sum() for mask in masks])
        _assert_masks(found, masks[order[:2]])


# --- second networks


def _normalized(values: Array) -> Array:
    """By the mean and the deviation of the sequence (Isik et al. 2016)."""
    return (values - values.mean()) / values.std()


def _two_stage(refiner: str, **changes: object) -> TwoStage:
    torch.manual_seed(5)
    first = (
        tiny_values(unit_norm=True, formation="kmeans", objective="affinity", mask="assignment")
        if refiner == "enhancement"
        else _upit_values()
    )
    values = {"kind": "two_stage", "stft": first["stft"], "first": first, "refiner": refiner}
    system = TwoStage(TwoStageConfig.model_validate(values | {"network": TINY_BLSTM} | changes)).eval()
    _statistics(system)
    if isinstance(system.first, EmbeddingSeparator):
        with torch.no_grad():
            system.first.network.linear.bias.copy_(2.0 * torch.eye(4)[torch.arange(129) % 2].flatten())
    with torch.no_grad():
        # Loud enough for the mixture, the estimate and their means to matter.
        system.refiner.network.linear.weight.mul_(4.0)
    return system


def _refined(system: TwoStage, mixture: Array, sources: Array) -> Array:
    magnitude = np.abs(_spectrum(system, mixture))
    if isinstance(system.first, EmbeddingSeparator):
        masks = _attractor_masks(system.first, mixture, sources, 2, training=False)
        # One network for every source, and a softmax over sources.
        values = [
            _run(
                system.refiner.network,
                _normalized(np.concatenate([magnitude, mask * magnitude], axis=1)),
            )[0]
            for mask in masks
        ]
        return naive.softmax(np.stack(values))
    masks = _upit_masks(system.first, mixture)
    joined = np.concatenate([magnitude, masks[0] * magnitude, masks[1] * magnitude], axis=1)
    return np.maximum(0, _run(system.refiner.network, _normalized(joined)))


@pytest.mark.parametrize("objective", ["magnitude_error", "phase_sensitive_error"])
@pytest.mark.parametrize("refiner", ["enhancement", "second_stage"])
def test_loss_and_masks_of_two_stages(refiner: str, objective: str, example_sources: Samples) -> None:
    system, mixtures = _two_stage(refiner, objective=objective), _mixtures(example_sources)
    masks = [_refined(system, *each) for each in mixtures]
    errors = [_error(system, *each, m) for each, m in zip(mixtures, masks, strict=True)]
    batch = _batch(mixtures)
    for found, expected in zip(_masks(system, batch, 2), masks, strict=True):
        _assert_masks(found, expected, any_order=refiner == "enhancement")
    if refiner == "second_stage":
        _assert_loss(system, batch, errors)
    system.choose_part("second")
    _assert_loss(system, batch, errors)


def test_the_enhancement_network_hears_mixture_and_estimate(example_sources: Samples) -> None:
    """Blind to one of them it would give other masks: the test above would then not be worth much."""
    system, (mixture, sources) = _two_stage("enhancement"), _mixtures(example_sources)[0]
    magnitude = np.abs(_spectrum(system, mixture))
    masks = _attractor_masks(system.first, mixture, sources, 2, training=False)
    seen = _refined(system, mixture, sources)
    for blind in (
        lambda mask: _normalized(np.concatenate([mask * magnitude, mask * magnitude], axis=1)),
        lambda mask: _normalized(np.concatenate([magnitude, magnitude], axis=1)),
        lambda mask: np.concatenate([magnitude, mask * magnitude], axis=1),
    ):
        values = [_run(system.refiner.network, blind(mask))[0] for mask in masks]
        assert np.abs(naive.softmax(np.stack(values)) - seen).max() > 0.02


# --- denoisers


def _noisy(speech: Samples) -> list[tuple[Array, Array]]:
    rng = np.random.default_rng(2)
    sources = [speech[:1, k : k + 8192].astype(np.float64) for k in (20000, 40000, 60000)]
    return [(s[0] + 0.03 * rng.standard_normal(8192), s) for s in sources]


def _expert_input(system: Denoiser | LocalExperts, magnitude: Array) -> tuple[Array, int]:
    """Features of the prelude and what follows, and how many frames the prelude has."""
    frames = round(system.config.prelude_seconds * system.sample_rate / system.hop)
    first = magnitude[np.arange(frames) % len(magnitude)]
    return _features(system, np.concatenate([first, magnitude])), frames


def _expert_mask(system: Denoiser | LocalExperts, magnitude: Array, number: int) -> Array:
    features, frames = _expert_input(system, magnitude)
    return naive.sigmoid(_run(system.experts[number], features))[None, frames:]


_TINY_LSTM = {"layers": 1, "hidden_size": 8}


@pytest.mark.parametrize("prelude", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("objective", _UPIT_OBJECTIVES)
def test_loss_and_masks_of_a_denoiser(objective: str, prelude: float, example_sources: Samples) -> None:
    torch.manual_seed(6)
    values = {"network": _TINY_LSTM, "objective": objective, "prelude_seconds": prelude}
    system = Denoiser(DenoiserConfig.model_validate(values)).eval()
    _statistics(system)
    mixtures = _noisy(example_sources)
    masks = [_expert_mask(system, np.abs(_spectrum(system, m)), 0) for m, _ in mixtures]
    expected = [_error(system, *each, m) for each, m in zip(mixtures, masks, strict=True)]
    batch = _batch(mixtures)
    _assert_loss(system, batch, expected)
    found = system.mask(batch.mixture, 1)[1].detach().double().numpy()
    for index, mask in enumerate(masks):
        _assert_masks(found[index], mask)


def _experts(**changes: object) -> LocalExperts:
    torch.manual_seed(7)
    values = {"network": _TINY_LSTM, "gate": _TINY_LSTM, "sharpness": 4.0} | changes
    system = LocalExperts(LocalExpertsConfig.model_validate(values)).eval()
    _statistics(system)
    with torch.no_grad():
        for expert in system.experts:
            expert.linear.weight.mul_(5.0)
    return system


def _gate_scores(system: LocalExperts, magnitude: Array) -> Array:
    """The mean over the utterance of the gate's values, the prelude included."""
    return _run(system.gate, _expert_input(system, magnitude)[0]).mean(axis=0)


@pytest.mark.parametrize(
    ("prelude", "sharpness", "objective"),
    [(0.0, 30.0, "snr"), (0.4, 12.0, "snr"), (0.4, 12.0, "si_sdr"), (0.4, 12.0, "si_sdr_and_spectrum")],
)
def test_losses_and_masks_of_local_experts(
    prelude: float, sharpness: float, objective: str, example_sources: Samples
) -> None:
    """Sivaraman & Kim 2020: specialists and gate apart, together by Eq. 4-5, and the best one alone at test time."""
    system = _experts(prelude_seconds=prelude, sharpness=sharpness, objective=objective)
    mixtures = _noisy(example_sources)
    batch = _batch(mixtures, snr=torch.tensor([-4.0, 11.0, 3.0]))
    labels = [0, 3, 2]  # The nearest of -5, 0, 5 and 10 dB.
    apart, crossed, together, by_choice, left_out = [], [], [], [], []
    found = system.mask(batch.mixture, 1)[1]
    for index, (mixture, sources) in enumerate(mixtures):
        magnitude = np.abs(_spectrum(system, mixture))
        scores = _gate_scores(system, magnitude)
        masks = [_expert_mask(system, magnitude, number) for number in range(4)]
        errors = [_error(system, mixture, sources, mask) for mask in masks]
        apart.append(errors[labels[index]])
        crossed.append(-np.log(naive.softmax(scores)[labels[index]]))
        shares = naive.softmax(sharpness * scores)
        by_choice.append(float((shares * errors).sum()))
        left_out.append(float(shares[shares < 0.01].sum()))
        shares = np.where(shares >= 0.01, shares, 0)
        mixed = sum(share * mask for share, mask in zip(shares / shares.sum(), masks, strict=True))
        together.append(_error(system, mixture, sources, mixed))
        _assert_masks(found[index].detach().double().numpy(), masks[int(scores.argmax())])
    assert max(left_out) > 0.002  # So hard that some shares are left out, and the others grow.
    _assert_loss(system, batch, together)
    system.choose_part("choice")
    _assert_loss(system, batch, by_choice)
    system.choose_part("gate")
    _assert_loss(system, batch, crossed)
    system.choose_part("apart")
    losses = {name: float(value.detach()) for name, value in system.loss(batch).items()}
    assert losses["gate"] == pytest.approx(np.mean(crossed), rel=1e-4)
    assert losses["specialists"] == pytest.approx(np.mean(apart), rel=2e-4)
    assert losses["loss"] == pytest.approx(np.mean(crossed) + np.mean(apart), rel=2e-4)


# --- dropout


@pytest.mark.parametrize("recurrent", [0.0, 0.2])
def test_dropout_is_on_the_input_of_every_layer_in_training_alone(recurrent: float) -> None:
    """Luo and Isik drop the features, too; every frame draws anew, and what is kept grows by 1 / (1 - p)."""
    torch.manual_seed(0)
    config = BlstmConfig(layers=3, hidden_size=40, dropout=0.4, recurrent_dropout=recurrent)
    network = BlstmEmbedding(129, 2, config)
    features, heard, given = 1 + torch.rand(2, 50, 129), [], []
    run = network.run_layer

    def listen(layer: nn.LSTM, inputs: Tensor, frames: Tensor | None) -> Tensor:
        heard.append(inputs.detach())
        given.append(run(layer, inputs, frames))
        return given[-1]

    network.run_layer = listen  # type: ignore[method-assign]
    network(features)
    for before, after in zip([features, *given[:-1]], heard, strict=True):
        dropped = after == 0
        assert float(dropped.float().mean()) == pytest.approx(0.4, abs=0.02)
        torch.testing.assert_close(after[~dropped], (before / 0.6)[~dropped].detach())
        assert not torch.equal(dropped[:, 0], dropped[:, 1])
    heard.clear()
    given.clear()
    network.eval()(features)
    for before, after in zip([features, *given[:-1]], heard, strict=True):
        torch.testing.assert_close(after, before.detach())
