"""Streams: the same as the whole, however the audio is cut; specialists that take over; other rates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from conftest import tiny_experts
from unmingle.audio import Samples, resample
from unmingle.audio_stream import Frames, StftStream
from unmingle.denoising.expert_choice import ExpertMasks
from unmingle.denoising.stream import DenoisingStream
from unmingle.errors import UnmingleError
from unmingle.frontend import FrontEnd, StftConfig, level, running_level
from unmingle.stft import Stft
from unmingle.systems import DenoisingSystem, LocalExperts
from unmingle.systems.gate_base import Decision

RATE = 16000


def _noisy(seconds: float, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    samples = round(seconds * RATE)
    swell = 1 + np.sin(np.arange(samples) / 8000)
    return (0.1 * swell * rng.standard_normal(samples)).astype(np.float32)


def _in_blocks(stream: DenoisingStream, audio: Samples, sizes: list[int]) -> Samples:
    """All of a stream's answers; ``sizes`` over and over."""
    answers, start, number = [], 0, 0
    while start < audio.shape[-1]:
        size = sizes[number % len(sizes)]
        answers.append(stream.push(audio[..., start : start + size]))
        start, number = start + size, number + 1
    return np.concatenate([*answers, stream.flush()], axis=-1)


@settings(max_examples=25, deadline=None)
@given(
    samples=st.integers(1, 3000),
    sizes=st.lists(st.integers(1, 700), min_size=1, max_size=5),
    stft=st.sampled_from([(256, 64, "hann"), (256, 128, "sqrt_hann"), (100, 30, "sqrt_hann")]),
)
def test_a_transform_by_blocks_is_that_of_the_whole(
    samples: int, sizes: list[int], stft: tuple[int, int, str]
) -> None:
    transform = Stft(*stft)  # type: ignore[arg-type]
    audio = torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))
    stream, frames, back, start, number = StftStream(transform, 2), [], [], 0, 0
    while start < samples:
        frames.append(stream.analyse(audio[:, start : start + sizes[number % len(sizes)]]))
        back.append(stream.synthesise(frames[-1]))
        start, number = start + sizes[number % len(sizes)], number + 1
    frames.append(stream.analyse(audio[:, :0], ended=True))
    back.append(stream.synthesise(frames[-1], ended=True))
    torch.testing.assert_close(torch.cat(frames, dim=1), transform.analyse(audio))
    torch.testing.assert_close(torch.cat(back, dim=1), audio, atol=1e-5, rtol=1e-4)


def test_the_running_level_is_the_level_of_what_was_heard_fading() -> None:
    magnitude = torch.rand(2, 30, 5, generator=torch.Generator().manual_seed(0)) + 0.1
    frontend = FrontEnd(StftConfig(level="running"))
    levels = running_level(magnitude, frontend.initial_state(2))
    fade = 0.5 ** (1 / 250)
    for batch in range(2):
        for frame in range(30):
            power = square = 0.0
            for past in range(frame + 1):
                energy = float(magnitude[batch, past].square().sum())
                power += fade ** (frame - past) * energy
                square += fade ** (frame - past) * energy**2
            assert float(levels[batch, frame]) == pytest.approx((square / power) ** 0.5, rel=1e-4)
    torch.testing.assert_close(levels[:, 0], magnitude[:, 0].square().sum(dim=-1).sqrt())
    torch.testing.assert_close(levels[:, -1], level(magnitude), atol=0, rtol=0.02)
    state, parts = frontend.initial_state(2), []
    for part in magnitude.split([1, 7, 2, 20], dim=1):
        parts.append(running_level(part, state))
    torch.testing.assert_close(torch.cat(parts, dim=1), levels)


def test_a_short_look_ahead_asks_the_gate_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    system = tiny_experts()
    asked: list[int] = []
    decide = system.gate.decide

    def count(features: Tensor, *rest: Any, **more: Any) -> Decision:
        asked.append(features.shape[1])
        return decide(features, *rest, **more)

    monkeypatch.setattr(system.gate, "decide", count)
    _in_blocks(DenoisingStream(system, RATE, look_ahead_seconds=0.5), _noisy(4.0), [5000])
    assert len(asked) == 8


def test_the_running_level_grows_with_the_gain_and_holds_through_digital_silence() -> None:
    magnitude = torch.rand(1, 50, 5) + 0.1
    magnitude[:, 30:] = 0
    frontend = FrontEnd(StftConfig(level="running"))
    levels = running_level(magnitude, frontend.initial_state(1))
    torch.testing.assert_close(levels[:, 30:], levels[:, 29:30].expand(1, 20))
    loud = running_level(1000 * magnitude, frontend.initial_state(1))
    torch.testing.assert_close(loud, 1000 * levels)
    click = torch.full((1, 1, 5), 1e10)
    state = frontend.initial_state(1)
    loudest = float(running_level(click, state))
    later = running_level(torch.rand(1, 60_000, 5) + 0.1, state)  # A click is forgotten in the end.
    assert float(later[0, -1]) == pytest.approx(float(levels[0, 29]), rel=0.2)
    assert float(later[0, 0]) == pytest.approx(loudest, rel=0.01)
    assert bool(frontend.step(torch.zeros(1, 4, 129), frontend.initial_state(1)).isfinite().all())


@pytest.mark.parametrize("expert", [0, 3])
def test_a_stream_with_a_fixed_specialist_equals_the_whole(expert: int) -> None:
    system, audio = tiny_experts(), _noisy(3.3)
    with torch.inference_mode():
        whole_hops = np.pad(audio, (0, -len(audio) % system.hop))
        spectra = system.frontend(torch.from_numpy(whole_hops)[None])
        mask = system.masks_of(spectra.features, torch.tensor([expert]))[:, 0]
        whole = system.frontend.stft.synthesise(spectra.spectrum * mask, len(audio))[0].numpy()
    for sizes in ([160], [1, 5000, 333], [10**6]):
        stream = DenoisingStream(system, RATE, expert=expert)
        np.testing.assert_allclose(_in_blocks(stream, audio, sizes), whole, atol=1e-5)


def test_with_look_ahead_a_short_recording_is_what_the_paper_says() -> None:
    system, audio = tiny_experts(), _noisy(4.0)
    whole = system.separate(torch.from_numpy(audio)[None], 1).sources[0, 0].numpy()
    stream = DenoisingStream(system, RATE, look_ahead_seconds=30.0)
    np.testing.assert_allclose(_in_blocks(stream, audio, [3000]), whole, atol=1e-5)


@pytest.mark.parametrize("look_ahead", [0.0, 2.0])
@pytest.mark.parametrize("rate", [RATE, 44100, 8000])
def test_how_the_audio_is_cut_changes_nothing(rate: int, look_ahead: float) -> None:
    system = tiny_experts()
    audio = np.stack([resample(_noisy(6.5, seed), RATE, rate) for seed in (0, 1)])
    answers = [
        _in_blocks(DenoisingStream(system, rate, 2, look_ahead_seconds=look_ahead), audio, sizes)
        for sizes in ([10**7], [777, 1, 4000], [rate // 100])
    ]
    for answer in answers:
        assert answer.shape == audio.shape
        np.testing.assert_allclose(answer, answers[0], atol=1e-5)


@pytest.mark.parametrize("rate", [8000, RATE, 22050, 48000])
def test_the_lag_is_never_more_than_declared(rate: int) -> None:
    stream, block = DenoisingStream(tiny_experts(), rate), rate // 100
    given = 0
    for count in range(1, 200):
        given += len(stream.push(np.zeros(block, dtype=np.float32)))
        assert (count * block - given) / rate <= stream.lag_seconds + 0.011
    assert stream.lag_seconds < 0.35
    if rate == RATE:
        assert stream.lag_seconds == pytest.approx(1024 / 16000)


def _constant(system: LocalExperts, masks: list[float]) -> LocalExperts:
    """Specialists with one mask value each, whatever they hear."""
    for specialist, value in zip(system.specialists, masks, strict=True):
        torch.nn.init.zeros_(specialist.linear.weight)
        torch.nn.init.constant_(specialist.linear.bias, float(torch.logit(torch.tensor(value))))
    return system


def _scores(system: LocalExperts, scores: list[float]) -> LocalExperts:
    torch.nn.init.zeros_(system.gate.linear.weight)
    system.gate.linear.bias.data.copy_(torch.tensor(scores))
    return system


def test_the_default_specialist_begins_and_the_gates_takes_over_without_a_click() -> None:
    system = _constant(tiny_experts(default_expert=0), [0.2, 0.9, 0.5, 0.5])
    _scores(system, [0.0, 5.0, 0.0, 0.0])
    time = np.arange(4 * RATE) / RATE
    tone = (0.5 * np.sin(2 * np.pi * 250 * time)).astype(np.float32)
    stream = DenoisingStream(system, RATE)
    answer = _in_blocks(stream, tone, [512])
    assert (stream.masks.expert, stream.masks.switches) == (1, 1)

    def envelope(start: float, end: float) -> float:
        return float(np.abs(answer[round(start * RATE) : round(end * RATE)]).max())

    assert envelope(0.2, 0.9) == pytest.approx(0.1, abs=0.005)
    assert envelope(1.5, 3.9) == pytest.approx(0.45, abs=0.005)
    # A click is a step: the tone's own steepest slope is 2 pi f A / rate.
    steepest = 2 * np.pi * 250 * 0.45 / RATE
    assert np.abs(np.diff(answer)).max() < 1.05 * steepest
    assert np.abs(np.diff(answer, 2)).max() < 1.2 * steepest * 2 * np.pi * 250 / RATE


def test_a_specialist_that_takes_over_has_heard_the_last_second() -> None:
    system = _scores(tiny_experts(default_expert=0), [0.0, 0.0, 0.0, 5.0])
    features = torch.randn(1, 150, 513, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        masks = ExpertMasks(system).push(features, features.abs())
        before, after = (torch.sigmoid(system.experts[number](features)) for number in (0, 3))
    # The gate chose after 62 frames; the fade of 16 frames is over after 78.
    torch.testing.assert_close(masks[:, :62], before[:, :62])
    torch.testing.assert_close(masks[:, 78:], after[:, 78:], atol=1e-5, rtol=1e-4)
    share = (torch.arange(1, 17) / 17).reshape(1, 16, 1)
    faded = share * after[:, 62:78] + (1 - share) * before[:, 62:78]
    torch.testing.assert_close(masks[:, 62:78], faded, atol=1e-5, rtol=1e-4)


def test_only_the_running_specialist_costs_arithmetic_but_for_the_fade() -> None:
    system = _scores(tiny_experts(default_expert=1), [0.0, 5.0, 0.0, 0.0])
    frames: list[int] = [0] * 4
    for number, specialist in enumerate(system.experts):
        plain = specialist.step

        def counting(features, state, number=number, plain=plain):  # type: ignore[no-untyped-def]
            frames[number] += features.shape[1]
            return plain(features, state)

        specialist.step = counting  # type: ignore[method-assign]
    _in_blocks(DenoisingStream(system, RATE), _noisy(5.0), [700])
    assert frames == [0, -(-5 * RATE // 256) + 1, 0, 0]


def test_above_the_models_band_the_input_follows_the_upper_octave() -> None:
    system = _constant(tiny_experts(), [0.25] * 4)
    time = np.arange(3 * 48000) / 48000
    low, high = np.sin(2 * np.pi * 6000 * time), np.sin(2 * np.pi * 15000 * time)
    audio = (0.2 * low + 0.1 * high).astype(np.float32)
    answer = _in_blocks(DenoisingStream(system, 48000), audio, [4800])
    np.testing.assert_allclose(answer[4800:-4800], 0.25 * audio[4800:-4800], atol=2e-3)


def test_all_channels_get_one_mask_and_opposite_phases_do_not_cancel() -> None:
    system, audio = tiny_experts(), _noisy(2.0)
    alone = _in_blocks(DenoisingStream(system, RATE, expert=2), audio, [999])
    both = _in_blocks(DenoisingStream(system, RATE, 2, expert=2), np.stack([audio, -audio]), [999])
    np.testing.assert_allclose(both, np.stack([alone, -alone]), atol=1e-5)


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_silence_stays_silence_and_one_sample_comes_back(rate: int) -> None:
    stream = DenoisingStream(tiny_experts(), rate)
    silent = _in_blocks(stream, np.zeros(rate, dtype=np.float32), [500])
    assert silent.shape == (rate,)
    assert not silent.any()
    assert _in_blocks(DenoisingStream(tiny_experts(), rate), np.ones(1, dtype=np.float32), [1]).shape == (1,)
    assert DenoisingStream(tiny_experts(), rate).flush().shape == (1, 0)


def test_a_loud_recording_is_the_quiet_one_louder() -> None:
    system, audio = tiny_experts(), _noisy(3.0)
    quiet = _in_blocks(DenoisingStream(system, RATE), 1e-3 * audio, [4000])
    loud = _in_blocks(DenoisingStream(system, RATE), audio, [4000])
    np.testing.assert_allclose(1e3 * quiet, loud, atol=1e-5)


def test_bad_blocks_and_streams_are_refused_and_the_stream_goes_on() -> None:
    system: DenoisingSystem = tiny_experts()
    with pytest.raises(UnmingleError, match="at least 1000 Hz"):
        DenoisingStream(system, 500)
    with pytest.raises(UnmingleError, match="at least one channel"):
        DenoisingStream(system, RATE, 0)
    with pytest.raises(UnmingleError, match=r"specialists 0 to 3; there is no 4"):
        DenoisingStream(system, RATE, expert=4)
    with pytest.raises(UnmingleError, match="between 0 and 3600; got -1"):
        DenoisingStream(system, RATE, look_ahead_seconds=-1.0)
    stream, audio = DenoisingStream(system, RATE), _noisy(1.0)
    first = stream.push(audio[:8000])
    for block, word in (
        (np.full(10, np.nan, dtype=np.float32), "NaN"),
        (np.zeros((2, 10), dtype=np.float32), "has 1 channels"),
        (np.zeros(10, dtype=np.int64), "floating point"),
        (np.full(10, 1e19, dtype=np.float32), "beyond 1e10"),
    ):
        with pytest.raises(UnmingleError, match=word):
            stream.push(block)
    answer = np.concatenate([first, stream.push(audio[8000:]), stream.flush()])
    np.testing.assert_allclose(answer, _in_blocks(DenoisingStream(system, RATE), audio, [10**6]), atol=1e-6)
    with pytest.raises(UnmingleError, match="has ended"):
        stream.push(audio)
    with pytest.raises(UnmingleError, match="has ended"):
        stream.flush()


def test_frames_that_wait_are_joined_in_order() -> None:
    whole, frames = torch.randn(1, 60, 3), Frames(torch.zeros(1, 0, 3))
    # A specialist that takes over before anything came has nothing to be warmed with.
    torch.testing.assert_close(frames.last(4), whole[:, :0])
    start = 0
    for size in (1, 0, 20, 9, 30):
        frames.add(whole[:, start : start + size])
        start += size
    assert frames.count == 60
    torch.testing.assert_close(frames.take(25), whole[:, :25])
    assert frames.count == 35
    torch.testing.assert_close(frames.last(10), whole[:, 50:])
    torch.testing.assert_close(frames.last(99), whole[:, 25:])
    torch.testing.assert_close(frames.take(35), whole[:, 25:])
    assert frames.count == 0
