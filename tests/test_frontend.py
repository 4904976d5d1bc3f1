from __future__ import annotations

import pytest
import torch

from unmingle.frontend import (
    FrontEnd,
    StftConfig,
    WeightConfig,
    bin_weights,
    level,
    loudest_weights,
)


def test_features_are_the_same_for_any_gain() -> None:
    frontend = FrontEnd(StftConfig())
    mixture = torch.randn(1, 4000)
    expected = frontend(mixture).features
    for gain in (1e-3, 1e12):
        torch.testing.assert_close(frontend(gain * mixture).features, expected, atol=1e-3, rtol=0)


def test_level_grows_with_gain_and_ignores_appended_silence() -> None:
    magnitude = torch.rand(1, 20, 9)
    padded = torch.cat([magnitude, torch.zeros(1, 30, 9)], dim=1)
    torch.testing.assert_close(level(padded), level(magnitude))
    torch.testing.assert_close(level(7 * magnitude), 7 * level(magnitude))


def test_fitted_features_have_mean_zero_and_deviation_one() -> None:
    frontend = FrontEnd(StftConfig())
    mixtures = torch.randn(8, 4000) * torch.linspace(0.1, 2, 8)[:, None]
    frontend.fit(mixtures)
    features = frontend(mixtures).features.flatten(0, 1)
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(129), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std(dim=0), torch.ones(129), atol=1e-4, rtol=0)


def _speechlike(samples: int = 8000) -> torch.Tensor:
    """Noise that comes and goes, so that some frames are loud."""
    torch.manual_seed(0)
    return torch.randn(1, samples) * (torch.arange(samples) // 1000 % 2 + 0.001)


def test_equalizing_raises_weak_frequencies_to_the_mean_of_loud_frames_and_lowers_none() -> None:
    plain, equalizing = FrontEnd(StftConfig()), FrontEnd(StftConfig(equalize=True))
    mixture = _speechlike()
    for frontend in (plain, equalizing):
        frontend.fit(mixture)
        frontend.mean[40:60] += 8.0
    given, raised = plain(mixture).features[0], equalizing(mixture).features[0]
    magnitude = plain.stft.analyse(mixture)[0].abs()
    floor = 10**-1.5 * level(magnitude[None])[0]
    loud = [t for t in range(len(magnitude)) if float(magnitude[t].square().sum().sqrt()) >= floor]
    assert 0 < len(loud) < len(magnitude)
    for f in range(129):
        mean = sum(float(given[t, f]) for t in loud) / len(loud)
        torch.testing.assert_close(raised[:, f], given[:, f] - min(0.0, mean), atol=1e-5, rtol=0)
    assert (raised[:, 45] > given[:, 45] + 0.5).all()


def test_equalized_features_do_not_depend_on_the_microphone() -> None:
    plain, equalizing = FrontEnd(StftConfig()), FrontEnd(StftConfig(equalize=True))
    mixture = _speechlike()
    for frontend in (plain, equalizing):
        frontend.fit(mixture)
        frontend.mean += 5.0  # So that every frequency is below the mean, and is raised.
    gains = torch.logspace(0.0, -1.5, 129)  # Falls by 30 dB.
    muffled = plain.stft.synthesise(plain.stft.analyse(mixture) * gains, mixture.shape[1])
    loud = equalizing(mixture).features[0].mean(dim=1) > -0.5
    before, after = (equalizing(audio).features[0, loud] for audio in (mixture, muffled))
    torch.testing.assert_close(after.mean(dim=0), before.mean(dim=0), atol=0.1, rtol=0)
    assert (plain(mixture).features - plain(muffled).features)[0, loud, 120:].mean() > 0.5


def test_equalized_features_ignore_gain_and_appended_silence() -> None:
    frontend = FrontEnd(StftConfig(equalize=True))
    mixture = _speechlike()
    frontend.fit(mixture)
    frontend.mean += 0.5
    expected = frontend(mixture).features
    torch.testing.assert_close(frontend(1e6 * mixture).features, expected, atol=1e-3, rtol=0)
    longer = frontend(torch.nn.functional.pad(mixture, (0, 6400))).features
    torch.testing.assert_close(longer[:, : expected.shape[1] - 3], expected[:, :-3], atol=0.05, rtol=0)
    assert frontend(torch.zeros(1, 1000)).features.isfinite().all()


def test_streaming_features_cannot_be_equalized() -> None:
    with pytest.raises(ValueError, match="equalize needs"):
        StftConfig(equalize=True, level="running")


def test_silence_gives_finite_features() -> None:
    assert FrontEnd(StftConfig())(torch.zeros(1, 1000)).features.isfinite().all()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_weights_keep_the_loudest_share(share: float) -> None:
    magnitude = torch.rand(2, 10, 10)
    weights = loudest_weights(magnitude, share)
    for values, kept in zip(magnitude, weights, strict=True):
        ranked = values.flatten().sort(descending=True).values
        threshold = ranked[round(share * 100) - 1]
        torch.testing.assert_close(kept, (values >= threshold).float())


def test_weights_leave_padding_out_and_do_not_let_it_change_the_rest() -> None:
    magnitude = torch.rand(1, 10, 10)
    padded = torch.cat([magnitude, torch.zeros(1, 5, 10)], dim=1)
    weights = loudest_weights(padded, 0.9, torch.tensor([10]))
    torch.testing.assert_close(weights[:, :10], loudest_weights(magnitude, 0.9))
    assert weights[:, 10:].sum() == 0


def test_near_loudest_weights_keep_bins_within_a_range_of_the_peak() -> None:
    magnitude = torch.tensor([[[1.0, 0.011, 0.0099, 0.0]], [[50.0, 0.6, 0.4, 1.0]]])
    config = WeightConfig(rule="near_loudest", threshold=40.0)
    expected = torch.tensor([[[1.0, 1.0, 0.0, 0.0]], [[1.0, 1.0, 0.0, 1.0]]])
    assert torch.equal(bin_weights(config, magnitude), expected)


def test_near_level_weights_keep_bins_within_so_many_decibels_of_the_level() -> None:
    relative = torch.tensor([[[1.0, 0.011, 0.0099, 0.0], [0.2, 0.009, 0.3, 5.0]]])
    config = WeightConfig(rule="near_level", threshold=40.0)
    expected = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 1.0]]])
    assert torch.equal(bin_weights(config, relative), expected)
    assert bin_weights(config, relative, torch.tensor([1]))[0, 1].sum() == 0
    assert WeightConfig(rule="near_level").value == 40.0


def test_only_rules_that_look_at_one_bin_are_causal() -> None:
    rules = ("loudest", "near_loudest", "near_level", "log_range", "all")
    causal = [rule for rule in rules if WeightConfig.model_validate({"rule": rule}).causal]
    assert causal == ["near_level", "all"]


def test_relative_magnitudes_are_the_magnitudes_by_the_level() -> None:
    mixture = _speechlike()
    whole, running = FrontEnd(StftConfig()), FrontEnd(StftConfig(level="running"))
    magnitude = whole(mixture).magnitude
    torch.testing.assert_close(whole(mixture).relative, magnitude / level(magnitude))
    state = running.initial_state(1)
    parts = [running.relative(part, state) for part in magnitude.split(7, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), running(mixture).relative)


def test_log_range_weights_follow_the_code_of_mobin() -> None:
    magnitude = torch.rand(3, 6, 5) + 0.01
    weights = bin_weights(WeightConfig(rule="log_range", threshold=0.6), magnitude)
    for values, kept in zip(magnitude, weights, strict=True):
        low, high = float(values.min().log()), float(values.max().log())
        for value, keep in zip(values.flatten(), kept.flatten(), strict=True):
            assert bool(keep) == (float(value.log()) >= low + 0.6 * (high - low))


@pytest.mark.parametrize(
    ("rule", "threshold"), [("loudest", 0.9), ("near_loudest", 40.0), ("log_range", 0.6), ("all", None)]
)
def test_every_weight_rule_leaves_padding_out_and_ignores_gain(rule: str, threshold: float | None) -> None:
    config = WeightConfig.model_validate({"rule": rule, "threshold": threshold})
    magnitude = torch.rand(1, 10, 9) + 0.05
    padded = torch.cat([magnitude, torch.rand(1, 5, 9)], dim=1)
    weights = bin_weights(config, padded, torch.tensor([10]))
    assert weights[:, 10:].sum() == 0
    assert torch.equal(weights[:, :10], bin_weights(config, magnitude))
    assert torch.equal(bin_weights(config, 8 * magnitude), bin_weights(config, magnitude))


def test_impossible_thresholds_are_refused() -> None:
    for rule, threshold in (
        ("loudest", 0.0),
        ("log_range", 1.5),
        ("near_loudest", -3.0),
        ("near_level", 0.0),
    ):
        with pytest.raises(ValueError, match="threshold"):
            WeightConfig.model_validate({"rule": rule, "threshold": threshold})


def test_default_thresholds_are_those_of_the_papers() -> None:
    values = {rule: WeightConfig.model_validate({"rule": rule}).value for rule in ("loudest", "near_loudest")}
    assert values == {"loudest": 0.9, "near_loudest": 40.0}
    assert WeightConfig(rule="log_range").value == 0.6
    with pytest.raises(ValueError, match="no threshold"):
        WeightConfig(rule="all", threshold=0.5)
