"""Training the network that tells who is heard alone: its recordings, objective, and a short run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import tiny_system
from unmingle.models import ModelFacts, save_system
from unmingle.permutation import best_permutation, pairwise_si_sdr
from unmingle.separation.turns import shares
from unmingle.speaker_activity import SpeakerActivity, SpeakerActivityConfig, load_speaker_activity
from unmingle.speaker_encoder import pretrained_speaker_encoder
from unmingle.training.activity_recordings import ActivityRecordings, separate_recordings
from unmingle.training.speaker_activity import activity_loss, main, train_speaker_activity


def _example(
    batch: int = 4, speakers: int = 3, frames: int = 7
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    sources = torch.randn(batch, speakers, frames, 4, dtype=torch.complex128)
    sources *= (torch.rand(batch, speakers, frames, 1) > 0.5) * torch.rand(batch, 1, frames, 1) ** 6
    masks = torch.rand(batch, speakers, frames, 4, dtype=torch.float64).softmax(dim=1)
    found = torch.randn(batch, speakers + 1, -(-frames // 2), dtype=torch.float64, requires_grad=True)
    return found, sources, masks


def test_the_loss_equals_a_slow_computation_and_has_gradients() -> None:
    found, sources, masks = _example()
    chances = found.log_softmax(dim=1)
    answers, weighted, weights = set(), 0.0, 0.0
    for s, m, c in zip(sources.numpy(), masks.numpy(), chances.detach().numpy(), strict=True):
        energy = [sum(float((abs(s[:, t]) ** 2).sum()) for t in (2 * n, 2 * n + 1)) for n in range(3)]
        for step in range(3):
            costs = [0.0] * 4
            for t in (2 * step, 2 * step + 1):
                mixture = s[:, t].sum(axis=0)
                for k in range(3):
                    costs[k] += sum(float((abs(s[j, t]) ** 2).sum()) for j in range(3) if j != k)
                    costs[3] += float((abs(m[k, t] * mixture - s[k, t]) ** 2).sum()) / 2
            answer, weight = int(np.argmin(costs)), min(1.0, 30 * energy[step] / np.mean(energy))
            answers.add(answer)
            weighted -= weight * c[answer, step]
            weights += weight
    assert len(answers) == 4
    assert float(activity_loss(chances.detach(), sources, masks)) == pytest.approx(weighted / weights)
    assert torch.autograd.gradcheck(lambda x: activity_loss(x.log_softmax(dim=1), sources, masks), found)


def test_the_loss_of_silence_is_finite() -> None:
    found, sources, masks = _example()
    assert float(activity_loss(found.detach(), 0 * sources, masks)) == 0.0


@pytest.fixture(scope="module")
def recordings(crowd_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings, separated by a tiny system."""
    folder = tmp_path_factory.mktemp("recordings")
    encoder = pretrained_speaker_encoder()
    separate_recordings([str(crowd_corpus)], tiny_system(), encoder, folder, {2: 2, 3: 1})
    return folder


@pytest.mark.parametrize(("name", "speakers"), [("2-0", 2), ("2-1", 2), ("3-0", 3)])
def test_sources_are_in_the_order_of_the_speakers(recordings: Path, name: str, speakers: int) -> None:
    """Among all orders, the sources fit best what the speakers get in the order in which they are kept."""
    assert sorted(path.name for path in recordings.iterdir()) == ["2-0.npz", "2-1.npz", "3-0.npz"]
    with np.load(recordings / f"{name}.npz") as data:
        sources, masks, labels = (data[key] for key in ("sources", "masks", "labels"))
    assert sources.shape == (speakers, 256000)
    assert np.square(sources.astype(float)).sum(axis=1).min() > 0
    np.testing.assert_allclose(masks.sum(axis=0, dtype=int), 255, atol=1)
    stft, audio = tiny_system().frontend.stft, torch.from_numpy(sources.astype(np.float32))
    share = torch.from_numpy(shares(labels.astype(int), speakers, 2001, 0.016))
    given = (share[..., None] * torch.from_numpy(masks)[:, None]).sum(dim=0) * stft.analyse(audio.sum(dim=0))
    scores = pairwise_si_sdr(stft.synthesise(given, 256000)[None], audio[None])
    assert best_permutation(scores)[1][0].tolist() == list(range(speakers))


def test_batches_hold_crops_of_one_number_of_speakers(recordings: Path) -> None:
    drawn = ActivityRecordings(recordings, tiny_system(), pieces=10)
    rng, speakers = np.random.default_rng(0), set()
    for _ in range(12):
        sources, inputs = drawn.batch(rng, 3)
        speakers.add(sources.shape[1])
        assert sources.shape == (3, sources.shape[1], 150, 129)
        assert inputs.masks.shape == inputs.nearest.shape == sources.shape
        assert inputs.power.shape == (3, 150, 129)
        assert inputs.likeness.shape == (3, sources.shape[1], 150, 2)
        torch.testing.assert_close(inputs.masks.sum(dim=1), torch.ones(3, 150, 129), atol=0.01, rtol=0)
        power = sources.sum(dim=1).abs().square()
        expected = power / power.mean(dim=(1, 2), keepdim=True)
        torch.testing.assert_close(inputs.power, expected, rtol=1e-3, atol=1e-3)
    assert speakers == {2, 3}


def test_training_lowers_the_loss(recordings: Path, tmp_path: Path) -> None:
    drawn = ActivityRecordings(recordings, tiny_system(), pieces=10)
    rng = np.random.default_rng(100)
    batches = [drawn.batch(rng, 4) for _ in range(4)]
    torch.manual_seed(0)
    network, file = (
        SpeakerActivity(SpeakerActivityConfig(channels=16, dilations=(1, 2))),
        tmp_path / "a.safetensors",
    )

    def loss(network: SpeakerActivity) -> float:
        with torch.no_grad():
            losses = [activity_loss(network(inputs), sources, inputs.masks) for sources, inputs in batches]
        return float(sum(losses))

    before = loss(network)
    train_speaker_activity(drawn, network, file, steps=40)
    # The file holds the average of the weights.
    assert loss(load_speaker_activity(file)) < before - 0.1


def test_the_command(crowd_corpus: Path, tmp_path: Path) -> None:
    model, folder, output = (
        tmp_path / "model.safetensors",
        tmp_path / "recordings",
        tmp_path / "a.safetensors",
    )
    save_system(tiny_system(), model, ModelFacts(task="separate"))
    arguments = [str(crowd_corpus), "--recordings", str(folder), "-o", str(output), "--model", str(model)]
    main([*arguments, "--two", "1", "--three", "0", "--steps", "2"])
    assert load_speaker_activity(output).config == SpeakerActivityConfig()
    written = (folder / "2-0.npz").stat().st_mtime_ns
    main([*arguments, "--two", "1", "--three", "0", "--steps", "1", "--init-from", str(output)])
    assert (folder / "2-0.npz").stat().st_mtime_ns == written


def test_faults_are_one_sentence(
    tmp_path: Path, tiny_denoiser: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model, counts, message in (
        (str(tiny_denoiser), ["--two", "1"], "does not separate"),
        ("adanet-2speakers-8khz", ["--two", "1"], "none"),
    ):
        arguments = [str(tmp_path / "none"), "--recordings", str(tmp_path / "r"), "-o", str(tmp_path / "a")]
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--model", model, *counts])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "a").exists()
