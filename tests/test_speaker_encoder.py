"""The speaker encoder: what its embeddings mean, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from conftest import EXAMPLES
from unmingle.audio import read_audio, resample
from unmingle.errors import UnmingleError
from unmingle.speaker_encoder import (
    SpeakerEncoder,
    SpeakerEncoderConfig,
    load_speaker_encoder,
    pretrained_speaker_encoder,
    save_speaker_encoder,
)

RATE = 8000


def _tiny() -> SpeakerEncoder:
    torch.manual_seed(0)
    return SpeakerEncoder(SpeakerEncoderConfig(bands=12, channels=8, dim=6)).eval()


def _noise(batch: int, seconds: float) -> torch.Tensor:
    return torch.randn(batch, round(seconds * RATE), generator=torch.Generator().manual_seed(1))


def test_features_equal_a_slow_computation() -> None:
    """Log of the energy in triangular mel bands, relative to the mean of the frames within 20 dB of the loudest."""
    audio = _noise(1, 0.3) * torch.linspace(0, 1, 2400).square()
    padded = np.pad(audio[0].double().numpy(), 128)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    mel = [2595 * np.log10(1 + hertz / 700) for hertz in (60, 3950)]
    edges = 700 * (10 ** (np.linspace(*mel, 14) / 2595) - 1)
    energies = []
    for start in range(0, len(padded) - 255, 160):
        spectrum = np.abs(np.fft.rfft(window * padded[start : start + 256])) ** 2
        energies.append([
            sum(
                power * max(0.0, min((f - low) / (peak - low), (high - f) / (high - peak)))
                for power, f in zip(spectrum, np.arange(129) * RATE / 256, strict=True)
            )
            for low, peak, high in zip(edges[:-2], edges[1:-1], edges[2:], strict=True)
        ])  # fmt: skip
    table = np.array(energies)
    means = table.mean(axis=1)
    expected = np.log(table / means[means > means.max() / 100].mean() + 1e-4)
    found = _tiny().features(audio)[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_pooling_equals_a_slow_computation() -> None:
    encoder = _tiny()
    frames = torch.rand(2, 16, 9)
    weights = torch.rand(2, 9)
    with torch.no_grad():
        scores, found = encoder.attention(frames), encoder.pool(frames, weights)
        for row in range(2):
            mean, deviation = torch.zeros(16), torch.zeros(16)
            for channel in range(16):
                attention = weights[row] * scores[row, channel].exp()
                attention = attention / attention.sum()
                mean[channel] = (attention * frames[row, channel]).sum()
                deviation[channel] = (
                    (attention * (frames[row, channel] - mean[channel]).square()).sum().sqrt()
                )
            pooled = encoder.pooled_norm(torch.cat([mean, deviation])[None])
            expected = encoder.embedding(pooled)[0]
            torch.testing.assert_close(found[row], expected / expected.norm(), atol=1e-4, rtol=1e-3)


def test_level_does_not_matter_and_length_is_one() -> None:
    encoder, audio = _tiny(), _noise(3, 1.0)
    with torch.no_grad():
        embeddings = encoder(audio)
        torch.testing.assert_close(encoder(100 * audio), embeddings, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))


def test_frames_without_weight_are_not_heard() -> None:
    encoder = _tiny()
    frames, other = torch.rand(1, 16, 10), 5 * torch.rand(1, 16, 10)
    weights = torch.tensor([[1.0] * 5 + [0.0] * 5])
    mixed = torch.cat([frames[..., :5], other[..., 5:]], dim=-1)
    with torch.no_grad():
        torch.testing.assert_close(
            encoder.pool(mixed, weights), encoder.pool(frames, weights), atol=1e-4, rtol=1e-3
        )
        torch.testing.assert_close(encoder.pool(frames, torch.ones(1, 10)), encoder.pool(frames))


def test_a_frame_lasts_as_long_as_the_hop() -> None:
    encoder = _tiny()
    assert encoder.hop == 320
    for samples in (1, 319, 8000, 12345):
        frames = encoder.frames(encoder.features(torch.zeros(1, samples))).shape[-1]
        assert 0 <= frames * encoder.hop - samples <= 2 * encoder.hop


def test_the_pretrained_encoder_recognizes_voices() -> None:
    """Pieces of 2 s of the packaged speech: those of one speaker are closer to each other than to the other's."""
    pieces, speakers = [], []
    for path in sorted((EXAMPLES / "speech").rglob("*.flac")):
        samples = resample(read_audio(path).samples[0], 16000, RATE)
        for start in range(0, len(samples) - 2 * RATE + 1, 2 * RATE):
            pieces.append(samples[start : start + 2 * RATE])
            speakers.append(path.parent.name)
    embeddings = pretrained_speaker_encoder()(torch.from_numpy(np.stack(pieces))).numpy()
    closeness = embeddings @ embeddings.T
    same = np.array(speakers)[:, None] == np.array(speakers)
    apart = ~np.eye(len(pieces), dtype=bool)
    assert closeness[same & apart].mean() > closeness[~same].mean() + 0.1


def test_a_file_keeps_the_encoder(tmp_path: Path) -> None:
    encoder, audio = _tiny(), _noise(2, 0.7)
    save_speaker_encoder(encoder, tmp_path / "encoder.safetensors")
    loaded = load_speaker_encoder(tmp_path / "encoder.safetensors")
    assert loaded.config == encoder.config
    with torch.no_grad():
        torch.testing.assert_close(loaded(audio), encoder(audio), atol=5e-3, rtol=5e-2)  # half precision
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_other_files_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(UnmingleError, match="damaged or missing"):
        load_speaker_encoder(tmp_path / "missing.safetensors")
    with pytest.raises(UnmingleError, match="not a speaker encoder"):
        load_speaker_encoder(tiny_model)
    damaged = tmp_path / "damaged.safetensors"
    save_speaker_encoder(_tiny(), damaged)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(UnmingleError, match="damaged"):
        load_speaker_encoder(damaged)
    save_file(
        {"input.weight": torch.zeros(3)}, damaged, {"format_version": "speaker_encoder-1", "config": "{}"}
    )
    with pytest.raises(UnmingleError, match="damaged"):
        load_speaker_encoder(damaged)
