"""Systems: what they learn, give and refuse, whatever they are composed of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from conftest import TINY_BLSTM, TINY_CNN, tiny_config, tiny_system, tiny_values
from unmingle.attractors import mask_logits
from unmingle.audio import Samples
from unmingle.batch import MixtureBatch
from unmingle.counting import Counted, count_by_spread
from unmingle.errors import UnmingleError
from unmingle.masks import ideal_binary_mask
from unmingle.metrics import si_sdr
from unmingle.systems import (
    AnySystemConfig,
    EmbeddingSeparator,
    EmbeddingSeparatorConfig,
    MaskingSystem,
    TwoStage,
    TwoStageConfig,
    build_system,
)
from unmingle.systems.oracle import Oracle


def _batch(sources: Samples) -> MixtureBatch:
    cut = torch.from_numpy(sources[:, 16000:32000]).unsqueeze(0)
    return MixtureBatch(cut.sum(dim=1), cut, torch.ones(1, 2, dtype=torch.bool))


def _build(values: dict[str, object]) -> MaskingSystem:
    built = build_system(TypeAdapter(AnySystemConfig).validate_python(values))
    assert isinstance(built, MaskingSystem)
    return built


def _upit(**changes: object) -> dict[str, object]:
    stft = {"hop": 128, "feature": "magnitude"}
    return {"kind": "mask_inference", "stft": stft, "network": TINY_BLSTM, **changes}


def test_a_batch_with_different_numbers_of_speakers_is_separated_by_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system, mixture = tiny_system(), 0.1 * torch.randn(3, 4000)
    counted = Counted(torch.tensor([1, 2, 1]), torch.tensor([0.9, 0.8, 0.7]))
    monkeypatch.setattr(system, "count", lambda mixtures: counted)
    found = system.separate(mixture)
    assert found.count.tolist() == [1, 2, 1]
    torch.testing.assert_close(found.confidence, counted.confidence)
    for place, number in enumerate((1, 2, 1)):
        alone = system.separate(mixture[place : place + 1], number).sources[0]
        torch.testing.assert_close(found.sources[place, :number], alone)
        assert not found.sources[place, number:].any()


_DPCL = tiny_values(
    network=TINY_BLSTM | {"recurrent_dropout": 0.2},
    objective="affinity",
    unit_norm=True,
    formation="soft_kmeans",
    mask="assignment",
)


def _two_stage(first: dict[str, object], refiner: str) -> dict[str, object]:
    return {
        "kind": "two_stage",
        "stft": first["stft"],
        "first": first,
        "refiner": refiner,
        "network": TINY_BLSTM,
    }


_FORMATIONS = [
    {"training_formation": "anchored", "formation": "anchored"},
    {"training_formation": "oracle", "formation": "kmeans"},
    {"training_formation": "kmeans", "formation": "spherical_kmeans"},
    {"training_formation": "soft_kmeans", "formation": "soft_kmeans", "mask": "assignment"},
    {"training_formation": "oracle", "formation": "fixed"},
    {"training_formation": "anchored", "formation": "anchored", "mask": "sigmoid"},
    {"training_formation": "oracle", "formation": "kmeans", "evaluation_mask": "hard"},
    {"objective": "affinity", "formation": "kmeans", "mask": "assignment"},
]
_NETWORKS = [{"network": TINY_BLSTM}, {"network": TINY_CNN, "unit_norm": True, "learned_scale": True}]
_OBJECTIVES = ["mask_error", "magnitude_error", "phase_sensitive_error", "si_sdr"]
SYSTEMS = [
    *(tiny_values(**(network | formation)) for network in _NETWORKS for formation in _FORMATIONS),
    *(tiny_values(objective=objective) for objective in _OBJECTIVES),
    *(_upit(objective=objective) for objective in _OBJECTIVES),
    *(
        _two_stage(first, refiner)
        for first in (_DPCL, _upit())
        for refiner in ("enhancement", "second_stage")
    ),
]


def test_a_learned_scale_begins_where_a_softmax_of_two_speakers_is_nearly_hard() -> None:
    """Unit-norm embeddings, and two opposite attractors: the products are 1 and -1."""
    scale = _build(tiny_values(unit_norm=True, learned_scale=True)).get_parameter("log_scale").exp()
    masks = torch.softmax(scale * torch.tensor([1.0, -1.0]), dim=0)
    assert masks[0].item() == pytest.approx(0.9999546, abs=1e-6)


def test_oracle_attractors_are_means_of_the_ideal_bins_with_the_weights_of_training(
    example_sources: Samples,
) -> None:
    few = {"rule": "loudest", "threshold": 0.3}
    system = _build(tiny_values(assignment="ibm", evaluation_weight=few))
    assert isinstance(system, EmbeddingSeparator)
    batch = _batch(example_sources)
    spectra, embedding = system.embed(batch.mixture)
    spoken = ideal_binary_mask(system.frontend.stft.analyse(batch.sources))[0]
    shares = spoken * system.weight(spectra, training=True)
    expected = torch.stack([(embedding[0] * each[..., None]).sum(dim=(0, 1)) / each.sum() for each in shares])
    torch.testing.assert_close(system.oracle_attractors(batch)[0], expected, atol=1e-5, rtol=1e-4)


def test_only_clustering_systems_count_before_they_separate(example_sources: Samples) -> None:
    mixture = _batch(example_sources).mixture
    system = _build(tiny_values(training_formation="oracle", formation="kmeans", speakers=3))
    assert isinstance(system, EmbeddingSeparator)
    spectra, embedding = system.embed(mixture)
    counted, expected = system.count(mixture), count_by_spread(embedding, system.weight(spectra), 3)
    assert counted is not None
    assert torch.equal(counted.count, expected.count)
    assert torch.equal(counted.confidence, expected.confidence)
    assert _build(tiny_values()).count(mixture) is None


def _id(values: dict[str, object]) -> str:
    words = [str(values["kind"])]
    words += [
        str(value) for key, value in values.items() if key not in ("kind", "dimension", "anchors", "stft")
    ]
    return "-".join(words)[:90]


@pytest.mark.parametrize("values", SYSTEMS, ids=_id)
def test_every_composition_learns_and_separates(values: dict[str, object], example_sources: Samples) -> None:
    torch.manual_seed(0)
    system = _build(values)
    batch = _batch(example_sources)
    optimizer = torch.optim.Adam(system.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = system.loss(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses[6:]) < losses[0]
    system.eval()
    estimates = system.separate(batch.mixture, 2).sources
    assert estimates.shape == batch.sources.shape
    assert estimates.isfinite().all()


@pytest.mark.parametrize("values", SYSTEMS, ids=_id)
def test_every_composition_counts_and_ignores_gain_and_neighbours(
    values: dict[str, object], example_sources: Samples
) -> None:
    torch.manual_seed(0)
    system = _build(values).eval()
    mixtures = torch.from_numpy(np.stack([example_sources[0, :20000], example_sources.sum(axis=0)[:20000]]))
    counted = system.separate(mixtures)
    assert ((counted.count >= 1) & (counted.count <= 2)).all()
    assert ((counted.confidence >= 0.5) & (counted.confidence <= 1)).all()
    for row, count in zip(counted.sources, counted.count.tolist(), strict=True):
        assert row[count:].abs().sum() == 0
    together = system.separate(mixtures, 2).sources
    # A power of two, so that samples are not rounded: rounding decides bins on the line between two speakers.
    quiet = system.separate(mixtures / 128, 2).sources
    error = (128 * quiet - together).square().sum() / together.square().sum()
    assert float(error) < 1e-4
    alone = system.separate(mixtures[1:], 2).sources
    torch.testing.assert_close(together[1], alone[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("values", SYSTEMS, ids=_id)
def test_loss_does_not_see_padding(example_sources: Samples, values: dict[str, object]) -> None:
    torch.manual_seed(0)
    system = _build(values).eval()
    batch = _batch(example_sources)
    length = batch.mixture.shape[-1] - 1
    cut = MixtureBatch(batch.mixture[:, :length], batch.sources[..., :length], batch.active)
    padded = [
        MixtureBatch(
            torch.nn.functional.pad(cut.mixture, (0, samples)),
            torch.nn.functional.pad(cut.sources, (0, samples)),
            batch.active,
            lengths=torch.tensor([length]),
        )
        for samples in (1000, 5000)
    ]
    few, many = (system.loss(each)["loss"] for each in padded)
    torch.testing.assert_close(many, few, atol=1e-4, rtol=1e-4)
    # Only the last half window, which overlaps the padding, may differ.
    torch.testing.assert_close(many, system.loss(cut)["loss"], atol=0.6, rtol=0.04)


def test_anchors_limit_the_number_of_speakers() -> None:
    system = tiny_system(anchors=3)
    assert system.separate(torch.randn(1, 4000), 3).sources.shape[1] == 3
    with pytest.raises(UnmingleError, match="from 1 to 3"):
        system.separate(torch.randn(1, 4000), 4)


def test_one_speaker_alone_is_the_mixture() -> None:
    mixture = torch.randn(1, 4000)
    torch.testing.assert_close(tiny_system().separate(mixture, 1).sources[:, 0], mixture, atol=1e-4, rtol=0)


def test_config_refuses_unknown_and_impossible_values() -> None:
    for values, word in (
        ({"layer": 3}, "layer"),
        ({"network": {"kind": "blstm", "layers": 0}}, "layers"),
        ({"network": {"kind": "blstm", "dropout": 1.0}}, "dropout"),
        ({"network": {"kind": "transformer"}}, "network"),
        ({"mask": "relu"}, "mask"),
        ({"mask": "hard"}, "no gradient"),
        ({"training_formation": "fixed"}, "fixed"),
        ({"speakers": 7}, "anchors"),
        ({"fewest_speakers": 3}, "fewest_speakers"),
    ):
        with pytest.raises(ValidationError, match=word):
            EmbeddingSeparatorConfig.model_validate(values)


def test_config_survives_json() -> None:
    config = tiny_config(network=TINY_CNN, mask="sigmoid")
    again = EmbeddingSeparatorConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert build_system(again).config == config


@pytest.mark.parametrize("name", ["ibm", "irm", "root_irm", "wfm", "psm"])
def test_oracles_separate_real_speech_far_better_than_the_mixture(
    name: str, example_sources: Samples
) -> None:
    sources = torch.from_numpy(example_sources).unsqueeze(0)
    estimates = Oracle(name, 16000).separate(sources.sum(dim=1), sources)
    gain = si_sdr(estimates, sources) - si_sdr(sources.sum(dim=1, keepdim=True), sources)
    assert float(gain.mean()) > 9.0
    if name in ("ibm", "irm", "wfm"):
        torch.testing.assert_close(estimates.sum(dim=1), sources.sum(dim=1), atol=1e-4, rtol=0)


def test_ideal_attractors_on_ideal_embeddings_recover_the_binary_mask(example_sources: Samples) -> None:
    """A network that embedded every bin by its speaker would separate like the oracle."""
    system = tiny_system(training_formation="kmeans", formation="kmeans")
    batch = _batch(example_sources)
    truth = ideal_binary_mask(system.frontend.stft.analyse(batch.sources))
    embedding = torch.cat([truth, 1 - truth], dim=1).movedim(1, -1) * 8  # four dimensions, two directions
    spectra, _ = system.embed(batch.mixture)
    formed = system.formation.form(embedding, system.weight(spectra), 2)
    masks = torch.softmax(mask_logits(embedding, formed.points), dim=1)
    agreement = (
        max(float((masks - order).abs().max()) for order in (truth,)),
        float((masks - truth.flip(1)).abs().max()),
    )
    assert min(agreement) < 1e-3


def test_a_missing_speaker_gets_no_mask_in_training(example_sources: Samples) -> None:
    """Three sources of which one is silent: with oracle attractors the loss is that of two."""
    system = tiny_system(training_formation="oracle", formation="kmeans", speakers=3)
    batch = _batch(example_sources)
    silent = torch.zeros_like(batch.sources[:, :1])
    three = MixtureBatch(
        batch.mixture, torch.cat([batch.sources, silent], dim=1), torch.tensor([[True, True, False]])
    )
    two = system.loss(batch)["loss"]
    # The mean is over three masks instead of two; the third has neither target nor error.
    torch.testing.assert_close(system.loss(three)["loss"], two * 2 / 3)


def test_parts_of_a_two_stage_system_are_trained_apart(example_sources: Samples) -> None:
    system = _build(_two_stage(_DPCL, "enhancement"))
    assert isinstance(system, TwoStage)
    batch = _batch(example_sources)
    for part, first, second in (("first", True, False), ("second", False, True), ("all", True, True)):
        system.choose_part(part)
        system.zero_grad()
        system.loss(batch)["loss"].backward()
        for module, trained in ((system.first, first), (system.refiner, second)):
            moved = any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters())
            assert moved == trained, (part, module)
        assert system.trained_system() is (system.first if part == "first" else system)
    with pytest.raises(UnmingleError, match="no part 'second'"):
        tiny_system().choose_part("second")


def test_oracle_attractors_need_the_sources(example_sources: Samples) -> None:
    system = tiny_system(formation="oracle", training_formation="oracle")
    batch = _batch(example_sources)
    assert system.needs_sources
    assert not _build(_upit()).needs_sources
    estimates = system.separate(batch.mixture, 2, batch.sources).sources
    swapped = system.separate(batch.mixture, 2, batch.sources.flip(1)).sources
    torch.testing.assert_close(estimates, swapped.flip(1))  # in the order of the sources
    assert not torch.allclose(estimates[:, 0], estimates[:, 1])
    with pytest.raises(UnmingleError, match="true sources"):
        system.separate(batch.mixture, 2)


def test_two_stages_share_one_front_end() -> None:
    values = _two_stage(_DPCL, "enhancement") | {"stft": {"hop": 64}}
    with pytest.raises(ValidationError, match="stft differs"):
        TwoStageConfig.model_validate(values)
    first = {key: value for key, value in _DPCL.items() if key != "stft"}
    inherited = TwoStageConfig.model_validate(values | {"first": first})
    assert inherited.first.stft == inherited.stft


def test_upit_gives_the_loudest_masks_when_asked_for_fewer(example_sources: Samples) -> None:
    system = _build(_upit(speakers=3)).eval()
    mixture = _batch(example_sources).mixture
    three, two = system.separate(mixture, 3).sources, system.separate(mixture, 2).sources
    energies = three.square().sum(dim=-1)[0]
    loudest = energies.argsort(descending=True)[:2]
    torch.testing.assert_close(two[0], three[0, loudest], atol=1e-5, rtol=1e-4)
    with pytest.raises(UnmingleError, match="from 1 to 3"):
        system.separate(mixture, 4)


@pytest.mark.parametrize("values", SYSTEMS, ids=_id)
def test_a_silent_crop_spoils_no_step(values: dict[str, object], example_sources: Samples) -> None:
    """Gated recordings hold digital silence: the loss and every gradient stay finite."""
    torch.manual_seed(0)
    system = _build(values)
    talking = _batch(example_sources)
    silent = torch.zeros_like(talking.sources)
    batch = MixtureBatch(
        torch.cat([talking.mixture, silent.sum(dim=1)]),
        torch.cat([talking.sources, silent]),
        torch.cat([talking.active, torch.zeros(1, 2, dtype=torch.bool)]),
    )
    loss = system.loss(batch)["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(bool(p.grad.isfinite().all()) for p in system.parameters() if p.grad is not None)


def test_a_model_for_several_numbers_always_forms_all_attractors(example_sources: Samples) -> None:
    """Asked for two of three, it gives the loudest two of its three masks: subsets of two were never trained."""
    mixture = _batch(example_sources).mixture
    system = tiny_system(speakers=3, fewest_speakers=1)
    three, two = system.separate(mixture, 3).sources[0], system.separate(mixture, 2).sources[0]
    assert all(any(torch.allclose(one, other, atol=1e-5) for other in three) for one in two)
    only_three = tiny_system(speakers=3)
    subset = only_three.separate(mixture, 2).sources[0]
    torch.testing.assert_close(subset.sum(dim=0), mixture[0], atol=1e-4, rtol=0)
