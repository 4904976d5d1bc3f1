"""The floor of masks: the attenuation limit, and the rule that leaves clean speech alone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import tiny_experts
from unmingle import load_denoiser
from unmingle.audio import Samples
from unmingle.denoising import DenoisingStream, attenuation_limit_of
from unmingle.denoising.post_gain import PostGain
from unmingle.errors import UnmingleError

RATE = 16000


def _frames(seed: int = 0, frames: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, frames, 33, generator=generator), torch.rand(1, frames, 33, generator=generator)


def test_strength_is_the_share_that_may_go() -> None:
    assert attenuation_limit_of(1.0) is None
    assert attenuation_limit_of(0.0) == 0.0
    assert attenuation_limit_of(0.9) == pytest.approx(20.0)
    assert attenuation_limit_of(0.5) == pytest.approx(6.02, abs=0.01)
    for strength in (-0.1, 1.1, math.nan):
        with pytest.raises(UnmingleError, match="between 0 and 1"):
            attenuation_limit_of(strength)


def _raised(gain: PostGain, masks: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    return gain.push(masks, magnitude, ended=True)


def test_no_mask_lies_below_the_limit_and_none_changes_without_one() -> None:
    masks, magnitude = _frames()
    torch.testing.assert_close(_raised(PostGain(RATE), masks, magnitude), masks)
    torch.testing.assert_close(_raised(PostGain(RATE, 20.0), masks, magnitude), masks.clamp_min(0.1))
    torch.testing.assert_close(_raised(PostGain(RATE, 0.0), masks, magnitude), torch.ones_like(masks))
    for limit in (-1.0, math.nan):
        with pytest.raises(UnmingleError, match="at least 0 dB"):
            PostGain(RATE, limit)


def _nearly_clean(noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Speech that comes and goes over noise of so much of its magnitude; the mask takes both away, speech rarely."""
    frames = torch.arange(500)
    talks = ((frames // 25) % 2 == 0).float()[None, :, None]
    masks = (talks * (1.0 - noise)).expand(1, 500, 33).clone()
    masks[:, 400] = 0.0
    return masks, (talks + noise).expand(1, 500, 33).clone()


def test_loud_noise_above_the_sibilants_frequency_is_removed_though_it_is_rare() -> None:
    """The median frame loses nothing, and neither do low frequencies; but as much energy is removed as kept."""
    masks, magnitude = torch.ones(1, 800, 33), torch.full((1, 800, 33), 0.05)
    speech, noise = slice(0, 8), slice(16, 33)
    magnitude[..., speech] = 1.0
    for frame in range(0, 800, 5):
        masks[:, frame, noise], magnitude[:, frame, noise] = 0.0, 1.5
    raised = _raised(PostGain(RATE), masks, magnitude)
    assert raised[:, 200::5, noise].max() < 0.05
    # Sibilants, which have far less energy than the speech, are given back.
    magnitude[..., noise] = magnitude[..., noise].clamp_max(0.3)
    assert _raised(PostGain(RATE), masks, magnitude)[:, 200::5, noise].min() > 0.8


def test_where_hardly_anything_is_removed_hardly_anything_is_turned_down() -> None:
    masks, magnitude = _nearly_clean(0.0001)
    raised = _raised(PostGain(RATE), masks, magnitude)
    assert float(raised[0, 400].min()) == pytest.approx(0.9)
    # In pauses nothing is kept.
    assert float(raised[0, 425:450].max()) == 0.0
    # With noise 20 dB below the speech the rule stays away.
    masks, magnitude = _nearly_clean(0.1)
    assert float(_raised(PostGain(RATE), masks, magnitude)[0, 400].max()) == 0.0
    # As it does where loud sounds in a quiet room are removed: more goes than stays.
    masks, magnitude = _nearly_clean(0.001)
    torch.testing.assert_close(_raised(PostGain(RATE), masks * 0.01, magnitude), masks * 0.01)


@pytest.mark.parametrize(
    ("above", "loudness", "kept"), [(2500.0, 0.25, 0.9), (2500.0, 10.0, 0.0), (0.0, 10.0, 0.0)]
)
def test_removed_sibilants_say_little_about_the_noise(above: float, loudness: float, kept: float) -> None:
    """Frames of which all above 2.5 kHz is removed do not end the rule, unless they are loud."""
    masks, magnitude = _nearly_clean(0.0001)
    high = torch.linspace(0.0, RATE / 2, 33) > above
    sibilants = torch.arange(300, 425, 2)
    magnitude[0, sibilants] = torch.where(high, loudness, 1.0)
    masks[0, sibilants] = torch.where(high, 0.0, 1.0)
    raised = _raised(PostGain(RATE), masks, magnitude)[0, 422][high]
    torch.testing.assert_close(raised, torch.full_like(raised, kept))


def test_in_files_the_frames_that_follow_count() -> None:
    """A loud start hides that the rest is nearly clean, unless the rest is heard, too."""
    masks, magnitude = _nearly_clean(0.0001)
    masks[:, 5] = 0.0
    early, late = (_raised(PostGain(RATE, look_ahead=frames), masks, magnitude)[0, 5] for frames in (0, 250))
    assert float(early.max()) < 0.1
    assert float(late.min()) == pytest.approx(0.9)
    # Later frames do not count.
    masks, magnitude = _nearly_clean(0.1)
    clean, quiet = _nearly_clean(0.0001)
    masks[:, 300:], magnitude[:, 300:] = clean[:, 300:], quiet[:, 300:]
    masks[:, 5] = 0.0
    assert float(_raised(PostGain(RATE, look_ahead=250), masks, magnitude)[0, 5].max()) == 0.0


def test_blocks_change_nothing() -> None:
    masks, magnitude = _nearly_clean(0.003)
    for look_ahead in (0, 100):
        whole, gain = (
            _raised(PostGain(RATE, 30.0, look_ahead), masks, magnitude),
            PostGain(RATE, 30.0, look_ahead),
        )
        sizes, found, pushed = [1, 7, 300, 192], [], 0
        for number, both in enumerate(zip(masks.split(sizes, 1), magnitude.split(sizes, 1), strict=True)):
            found.append(gain.push(*both, ended=number == 3))
            pushed += sizes[number]
            assert gain.waiting == (min(pushed, look_ahead) if number < 3 else 0)
        torch.testing.assert_close(torch.cat(found, dim=1), whole)


def _noisy() -> Samples:
    rng = np.random.default_rng(0)
    return (0.1 * rng.standard_normal((2, 3 * RATE))).astype(np.float32)


def _whole(stream: DenoisingStream, audio: Samples) -> Samples:
    return np.concatenate([stream.push(audio), stream.flush()], axis=-1)


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_at_a_limit_of_0_dB_a_stream_gives_back_what_it_took(rate: int) -> None:  # noqa: N802
    audio = _noisy()
    stream = DenoisingStream(tiny_experts(), rate, 2, attenuation_limit=0.0)
    answers = [stream.push(audio[:, start : start + 5000]) for start in range(0, audio.shape[1], 5000)]
    found = np.concatenate([*answers, stream.flush()], axis=1)
    np.testing.assert_allclose(found, audio, atol=2e-3)


def test_the_limit_holds_for_arrays_streams_and_files(tiny_denoiser: Path) -> None:
    audio = _noisy()
    free, limited = load_denoiser(tiny_denoiser), load_denoiser(tiny_denoiser, attenuation_limit=3.0)
    for of in (
        lambda enhancer: enhancer.denoise(audio, RATE),
        lambda enhancer: _whole(enhancer.stream(RATE, 2), audio),
        lambda enhancer: _whole(enhancer.file_stream(RATE, 2), audio),
    ):
        free_level, limited_level = (float(np.square(of(each)).mean()) for each in (free, limited))
        assert limited_level > 1.5 * free_level
    kept = float(np.square(limited.denoise(audio, RATE)).mean() / np.square(audio).mean())
    assert kept >= 10 ** (-3.0 / 10) * 0.99
    with pytest.raises(UnmingleError, match="at least 0 dB"):
        load_denoiser(tiny_denoiser, attenuation_limit=-3.0)
