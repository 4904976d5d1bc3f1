from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import tiny_config, tiny_system
from unmingle.audio import Samples
from unmingle.batch import MixtureBatch
from unmingle.errors import UnmingleError
from unmingle.masks import ideal_binary_mask
from unmingle.metrics import si_sdr
from unmingle.networks import BlstmEmbedding
from unmingle.systems import EmbeddingSeparatorConfig, build_system
from unmingle.systems.oracle import Oracle


def test_paper_size_has_the_papers_number_of_parameters() -> None:
    """9,079,500 (Luo et al. 2018, Table II): the network and six anchors of 20 dimensions."""
    assert build_system(EmbeddingSeparatorConfig()).parameter_count() == 9_079_500


def test_multiply_accumulates_match_the_closed_form() -> None:
    network = BlstmEmbedding(129, 4, 300, 20, 0.0, residual=False)
    per_frame = 2 * 4 * 300 * (129 + 300) + 3 * 2 * 4 * 300 * (600 + 300) + 600 * 129 * 20
    assert network.multiply_accumulates(7) == 7 * per_frame


def test_layers_equal_a_stacked_lstm() -> None:
    network = BlstmEmbedding(9, 3, 5, 2, 0.0, residual=False)
    stacked = torch.nn.LSTM(9, 5, 3, batch_first=True, bidirectional=True)
    for number, layer in enumerate(network.layers):
        for name, value in layer.named_parameters():
            stacked.get_parameter(name.replace("l0", f"l{number}")).data.copy_(value)
    features = torch.randn(2, 11, 9)
    expected = network.linear(stacked(features)[0]).reshape(2, 11, 9, 2)
    torch.testing.assert_close(network(features), expected)


@pytest.mark.parametrize("residual", [False, True])
def test_padding_changes_nothing(residual: bool) -> None:
    network = BlstmEmbedding(9, 2, 5, 2, 0.0, residual=residual)
    features = torch.randn(2, 11, 9)
    alone = network(features[1:, :6])
    padded = network(features, torch.tensor([11, 6]))
    torch.testing.assert_close(padded[1, :6], alone[0])


def _batch(sources: Samples) -> MixtureBatch:
    cut = torch.from_numpy(sources[:, 16000:32000]).unsqueeze(0)
    return MixtureBatch(cut.sum(dim=1), cut, torch.ones(1, 2, dtype=torch.bool))


VARIANTS = [
    {"training_formation": formation, "formation": evaluation, "mask": mask, "objective": objective}
    for formation, evaluation in (
        ("anchored", "anchored"),
        ("oracle", "kmeans"),
        ("kmeans", "spherical_kmeans"),
    )
    for mask in ("softmax", "sigmoid")
    for objective in ("mask_error", "si_sdr")
]


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: "-".join(changes.values()))
def test_every_composition_learns_and_separates(changes: dict[str, object], example_sources: Samples) -> None:
    system = tiny_system(**changes)
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
    estimates = system.separate(batch.mixture).sources
    assert estimates.shape == batch.sources.shape
    if changes["mask"] == "softmax":
        torch.testing.assert_close(estimates.sum(dim=1), batch.mixture, atol=1e-4, rtol=0)


@pytest.mark.parametrize("formation", ["anchored", "kmeans"])
def test_gain_of_the_input_is_the_gain_of_the_estimates(formation: str, example_sources: Samples) -> None:
    system = tiny_system(training_formation=formation, formation=formation)
    mixture = _batch(example_sources).mixture
    torch.testing.assert_close(
        system.separate(0.01 * mixture).sources, 0.01 * system.separate(mixture).sources, atol=1e-5, rtol=1e-3
    )


def test_a_batch_gives_what_its_items_give(example_sources: Samples) -> None:
    system = tiny_system()
    mixtures = torch.from_numpy(np.stack([example_sources[0, :20000], example_sources.sum(axis=0)[:20000]]))
    together = system.separate(mixtures).sources
    apart = torch.cat([system.separate(mixture.unsqueeze(0)).sources for mixture in mixtures])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("objective", ["si_sdr", "mask_error"])
def test_loss_does_not_see_padding(example_sources: Samples, objective: str) -> None:
    system = tiny_system(objective=objective)
    batch = _batch(example_sources)
    length = batch.mixture.shape[-1] - 1
    cut = MixtureBatch(batch.mixture[:, :length], batch.sources[..., :length], batch.active)
    padded = MixtureBatch(
        torch.nn.functional.pad(cut.mixture, (0, 5000)),
        torch.nn.functional.pad(cut.sources, (0, 5000)),
        batch.active,
        lengths=torch.tensor([length]),
    )
    # Only the last half window, which overlaps the padding, may differ.
    torch.testing.assert_close(system.loss(padded)["loss"], system.loss(cut)["loss"], atol=0.02, rtol=0.02)


def test_anchors_limit_the_number_of_talkers() -> None:
    system = tiny_system(anchors=3)
    assert system.separate(torch.randn(1, 4000), 3).sources.shape[1] == 3
    with pytest.raises(UnmingleError, match="1 to 3 talkers"):
        system.separate(torch.randn(1, 4000), 4)


def test_one_talker_alone_is_the_mixture() -> None:
    mixture = torch.randn(1, 4000)
    torch.testing.assert_close(tiny_system().separate(mixture, 1).sources[:, 0], mixture, atol=1e-4, rtol=0)


def test_config_refuses_unknown_and_impossible_values() -> None:
    for values in ({"layer": 3}, {"layers": 0}, {"mask": "relu"}, {"dropout": 1.0}):
        with pytest.raises(ValueError, match=next(iter(values))):
            EmbeddingSeparatorConfig.model_validate(values)


def test_config_survives_json() -> None:
    config = tiny_config(residual=True, mask="sigmoid")
    again = EmbeddingSeparatorConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert build_system(again).config == config


@pytest.mark.parametrize("name", ["ibm", "irm", "wfm"])
def test_oracles_separate_real_speech_far_better_than_the_mixture(
    name: str, example_sources: Samples
) -> None:
    sources = torch.from_numpy(example_sources).unsqueeze(0)
    estimates = Oracle(name, 16000).separate(sources.sum(dim=1), sources)
    gain = si_sdr(estimates, sources) - si_sdr(sources.sum(dim=1, keepdim=True), sources)
    assert float(gain.mean()) > 9.0
    torch.testing.assert_close(estimates.sum(dim=1), sources.sum(dim=1), atol=1e-4, rtol=0)


def test_ideal_attractors_on_ideal_embeddings_recover_the_binary_mask(example_sources: Samples) -> None:
    """A network that embedded every bin by its talker would separate like the oracle."""
    system = tiny_system(training_formation="kmeans", formation="kmeans")
    batch = _batch(example_sources)
    truth = ideal_binary_mask(system.frontend.stft.analyse(batch.sources))  # type: ignore[union-attr, operator]
    embedding = torch.cat([truth, 1 - truth], dim=1).movedim(1, -1) * 8  # four dimensions, two directions
    _, _, weight = system.embed(batch.mixture)  # type: ignore[operator]
    formed = system.formation.form(embedding, weight, 2)  # type: ignore[union-attr, operator]
    masks = system.masks(embedding, formed.points)  # type: ignore[operator]
    agreement = (
        max(float((masks - order).abs().max()) for order in (truth,)),
        float((masks - truth.flip(1)).abs().max()),
    )
    assert min(agreement) < 1e-3
