"""The network that tells who is heard alone: what its answers mean, and its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from unmingle.errors import UnmingleError
from unmingle.separation.fine_masks import FineMasks
from unmingle.separation.offline import load
from unmingle.speaker_activity import (
    ActivityInputs,
    SpeakerActivity,
    SpeakerActivityConfig,
    load_speaker_activity,
    pretrained_speaker_activity,
    relative_power,
    save_speaker_activity,
    to_frames,
    with_half_the_window,
)
from unmingle.stft import Stft

TINY = SpeakerActivityConfig(window_length=8, hop=4, voice=3, channels=6, dilations=(1, 2, 1, 2))


def _tiny() -> SpeakerActivity:
    torch.manual_seed(0)
    return SpeakerActivity(TINY).eval()


def _inputs(
    batch: int = 2, speakers: int = 3, frames: int = 12, config: SpeakerActivityConfig = TINY
) -> ActivityInputs:
    draw = torch.Generator().manual_seed(1)
    freqs = config.window_length // 2 + 1
    masks = torch.rand(batch, speakers, frames, freqs, generator=draw)
    return ActivityInputs(
        torch.rand(batch, frames, freqs, generator=draw),
        masks,
        masks.roll(1, 1),
        torch.rand(batch, speakers, frames, 4, generator=draw),
        torch.nn.functional.normalize(torch.randn(batch, speakers, config.voice, generator=draw), dim=-1),
    )


def _norm(rows: np.ndarray, layer: torch.nn.LayerNorm) -> np.ndarray:
    centred = rows - rows.mean(axis=-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + layer.eps)
    return unit * layer.weight.numpy() + layer.bias.numpy()


def _linear(rows: np.ndarray, layer: torch.nn.Linear) -> np.ndarray:
    return rows @ layer.weight.numpy().T + layer.bias.numpy()


def _gelu(rows: np.ndarray) -> np.ndarray:
    return torch.nn.functional.gelu(torch.from_numpy(rows)).numpy()


@torch.no_grad()
def test_answers_equal_a_slow_computation() -> None:
    network, inputs = _tiny().double(), _inputs(batch=1, frames=9)
    inputs = ActivityInputs(*(value.double() for value in vars(inputs).values()))
    power = inputs.power[0].numpy()
    hidden = []
    for speaker in range(3):
        rows = []
        for step in range(5):
            row: list[float] = []
            for mask in (
                np.ones_like(power),
                inputs.masks[0, speaker].numpy(),
                inputs.nearest[0, speaker].numpy(),
            ):
                for frame in (2 * step, 2 * step + 1):
                    seen = power[frame] * mask[frame] ** 2 if frame < 9 else None
                    # A missing last frame is zero after the logarithm.
                    row += [0.0] * 5 if seen is None else list(np.log(seen + 1e-4) / 4 + 1)
            rows.append([*row, *inputs.likeness[0, speaker, 2 * step].numpy()])
        voice = _linear(inputs.voices[0, speaker].numpy() * np.sqrt(3), network.voice)
        hidden.append(_gelu(_linear(np.array(rows), network.input)) * (1 + voice[:6]) + voice[6:])
    for number, dilation in enumerate(TINY.dilations):
        layer = network.layers[number]
        for speaker in range(3):
            normal = np.pad(_norm(hidden[speaker], layer.norm), ((dilation, dilation), (0, 0)))
            kernel, bias = layer.over_time.weight.numpy(), layer.over_time.bias.numpy()
            found = sum(normal[k * dilation : k * dilation + 5] @ kernel[:, :, k].T for k in range(3)) + bias
            hidden[speaker] = hidden[speaker] + _linear(_gelu(found), layer.pointwise)
        if number % 2:
            own = [_linear(each, network.others[number // 2]) for each in hidden]
            hidden = [hidden[k] + (sum(own) - own[k]) / 2 for k in range(3)]
    scores = np.stack([_linear(_norm(each, network.norm), network.output) for each in hidden])
    both = np.concatenate([scores[..., 0], scores[..., 1].mean(axis=0, keepdims=True)])
    expected = both - np.log(np.exp(both).sum(axis=0, keepdims=True))
    np.testing.assert_allclose(network(inputs)[0].numpy(), expected, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("speakers", [2, 3, 5])
def test_the_order_of_speakers_is_that_of_the_answers(speakers: int) -> None:
    network, inputs = _tiny(), _inputs(speakers=speakers)
    order = torch.randperm(speakers, generator=torch.Generator().manual_seed(2))
    ordered = replace(
        inputs,
        masks=inputs.masks[:, order],
        nearest=inputs.nearest[:, order],
        likeness=inputs.likeness[:, order],
        voices=inputs.voices[:, order],
    )
    found, again = network(inputs), network(ordered)
    assert found.shape == (2, speakers + 1, 6)
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(2, 6))
    torch.testing.assert_close(again[:, :-1], found[:, order])
    torch.testing.assert_close(again[:, -1], found[:, -1])


def test_all_inputs_matter() -> None:
    network, inputs = _tiny(), _inputs()
    leaves = {name: value.clone().requires_grad_() for name, value in vars(inputs).items()}
    network(ActivityInputs(**leaves))[:, 0].sum().backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None, name
        assert leaf.grad.abs().sum() > 0, name


def test_power_is_relative_to_its_mean() -> None:
    magnitude = torch.tensor([[1.0, 3.0], [1.0, 1.0]])
    torch.testing.assert_close(relative_power(magnitude), torch.tensor([[1.0, 9.0], [1.0, 1.0]]) / 3)
    torch.testing.assert_close(relative_power(7 * magnitude), relative_power(magnitude))
    batch = torch.stack([magnitude, 10 * magnitude])
    torch.testing.assert_close(relative_power(batch)[1], relative_power(magnitude))
    assert relative_power(torch.zeros(4, 2)).isfinite().all()


def test_a_long_window_is_seen_as_a_short_one() -> None:
    inputs = _inputs(config=TINY.model_copy(update={"window_length": 16}), frames=7)
    found = with_half_the_window(inputs)
    power = inputs.power.numpy()
    for speaker in range(3):
        energy = power * inputs.masks[:, speaker].numpy() ** 2
        for freq in range(5):
            near = [(2 * freq + offset, 0.5 if offset else 1.0) for offset in (-1, 0, 1)]
            whole, own = (
                sum(share * values[:, :, k] for k, share in near if 0 <= k < 9) for values in (power, energy)
            )
            for frame in range(7):
                np.testing.assert_allclose(found.power[:, frame, freq], whole[:, frame] * 5 / 9, rtol=1e-5)
                expected = np.sqrt(own[:, frame] / whole[:, frame])
                np.testing.assert_allclose(found.masks[:, speaker, frame, freq], expected, rtol=1e-4)
    network = _tiny()
    torch.testing.assert_close(network(inputs), network(found))


@pytest.mark.parametrize("frames", [5, 6])
def test_steps_are_interpolated_to_frames(frames: int) -> None:
    steps = torch.tensor([[[0.0, 4.0, 8.0]]])
    expected = torch.tensor([0.0, 1.0, 3.0, 5.0, 7.0, 8.0])[:frames]
    torch.testing.assert_close(to_frames(steps, frames)[0, 0], expected)


def test_it_knows_the_spectrograms_of_its_training() -> None:
    network = _tiny()
    assert network.knows(Stft(8, 4), 8000)
    assert network.knows(Stft(16, 4), 8000)
    assert not network.knows(Stft(16, 8), 8000)
    assert not network.knows(Stft(32, 16), 8000)
    assert not network.knows(Stft(8, 2), 8000)
    assert not network.knows(Stft(10, 4), 8000)
    assert not network.knows(Stft(8, 4), 16000)


def test_a_file_gives_the_same_answers(tmp_path: Path) -> None:
    network, inputs, path = _tiny().half().float(), _inputs(), tmp_path / "activity.safetensors"
    save_speaker_activity(network, path)
    loaded = load_speaker_activity(path)
    assert loaded.config == network.config
    with torch.no_grad():
        torch.testing.assert_close(loaded(inputs), network(inputs))


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "activity.safetensors"
    with pytest.raises(UnmingleError, match="damaged or missing"):
        load_speaker_activity(path)
    save_file({"x": torch.zeros(1)}, path, {"format_version": "speaker_encoder-1", "config": "{}"})
    with pytest.raises(UnmingleError, match="not a speaker activity"):
        load_speaker_activity(path)
    save_file({"x": torch.zeros(1)}, path, {"format_version": "speaker_activity-2", "config": '{"hop": 0}'})
    with pytest.raises(UnmingleError, match="damaged"):
        load_speaker_activity(path)
    save_file({"x": torch.zeros(1)}, path, {"format_version": "speaker_activity-2", "config": "[1]"})
    with pytest.raises(UnmingleError, match="damaged"):
        load_speaker_activity(path)


def test_the_pretrained_network_is_for_the_pretrained_separator() -> None:
    network = pretrained_speaker_activity()
    assert network is pretrained_speaker_activity()
    assert network.knows(FineMasks(load().system).stft, 8000)
    assert not any(parameter.requires_grad for parameter in network.parameters())
