"""Training the network that tells who is heard alone: its recordings, objective, and a short run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from conftest import ROOT, tiny_system
from training_runs import talk_recipe
from unmingle.models import ModelFacts, save_system
from unmingle.permutation import best_permutation, pairwise_si_sdr
from unmingle.speaker_activity import SpeakerActivity, SpeakerActivityConfig, load_speaker_activity
from unmingle.speaker_encoder import pretrained_speaker_encoder
from unmingle.training import separated_recordings
from unmingle.training.activity_recordings import ActivityRecordings
from unmingle.training.separated_recordings import read_separated
from unmingle.training.speaker_activity import activity_loss, main, train_speaker_activity

RECIPE = ROOT / "recipes" / "separated-recordings-8khz.yaml"


def _example(batch: int = 8, speakers: int = 3, frames: int = 7) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    sources = torch.randn(batch, speakers, frames, 4, dtype=torch.complex128)
    sources *= (torch.rand(batch, speakers, frames, 1) > 0.5) * torch.rand(batch, 1, frames, 1) ** 6
    mixture = sources.sum(dim=1) + 0.02 * torch.randn(batch, frames, 4, dtype=torch.complex128)
    masks = torch.rand(batch, speakers, frames, 4, dtype=torch.float64).softmax(dim=1)
    found = torch.randn(batch, speakers + 1, -(-frames // 2), dtype=torch.float64, requires_grad=True)
    return found, mixture, sources, masks


def test_the_loss_equals_a_slow_computation_and_has_gradients() -> None:
    found, mixture, sources, masks = _example()
    steps = [range(0, 2), range(2, 4), range(4, 6)]  # The last frame is left out.
    chances = found.log_softmax(dim=1)
    answers, weighted, weights = set(), 0.0, 0.0
    for x, s, m, c in zip(
        mixture.numpy(), sources.numpy(), masks.numpy(), chances.detach().numpy(), strict=True
    ):
        energy = [sum(float((abs(s[:, t]) ** 2).sum()) for t in frames) for frames in steps]
        for step, frames in enumerate(steps):
            costs = [0.0] * 4
            for t in frames:
                for k in range(3):
                    for j in range(3):
                        # All to speaker k, or to each its mask.
                        given = x[t] if j == k else 0 * x[t]
                        costs[k] += float((abs(given - s[j, t]) ** 2).sum())
                    costs[3] += float((abs(m[k, t] * x[t] - s[k, t]) ** 2).sum())
            answer, weight = int(np.argmin(costs)), min(1.0, 30 * energy[step] / np.mean(energy))
            answers.add(answer)
            weighted -= weight * c[answer, step]
            weights += weight
    assert len(answers) == 4
    assert float(activity_loss(chances.detach(), mixture, sources, masks)) == pytest.approx(
        weighted / weights
    )
    assert torch.autograd.gradcheck(
        lambda x: activity_loss(x.log_softmax(dim=1), mixture, sources, masks), found
    )


def test_the_loss_of_silence_is_finite() -> None:
    found, mixture, sources, masks = _example()
    assert float(activity_loss(found.detach(), mixture, 0 * sources, masks)) == 0.0


@pytest.mark.parametrize(("name", "speakers"), [("2-0", 2), ("2-1", 2), ("3-0", 3)])
def test_recordings_hold_what_a_system_separates(separated_folder: Path, name: str, speakers: int) -> None:
    assert sorted(path.name for path in separated_folder.iterdir()) == ["2-0.npz", "2-1.npz", "3-0.npz"]
    recording = read_separated(separated_folder / f"{name}.npz")
    assert recording.sources.shape == (speakers, 256000)
    assert recording.sources.square().sum(dim=1).min() > 0
    torch.testing.assert_close(recording.mixture, recording.sources.sum(dim=0), atol=2e-4, rtol=0)
    with torch.no_grad():
        _, masks, _ = tiny_system().mask_and_attractors(recording.mixture[None], 2)
    torch.testing.assert_close(recording.masks, masks[0], atol=0.01, rtol=0)


def test_sources_are_in_the_order_of_the_speakers(separated_folder: Path) -> None:
    """Among all orders, the sources fit best what the speakers get in the order in which they are kept."""
    system, encoder = tiny_system(), pretrained_speaker_encoder()
    drawn = ActivityRecordings(separated_folder, system, encoder, pieces=132)
    rng, orders = np.random.default_rng(0), set()
    for _ in range(6):
        _, sources, inputs = drawn.batch(rng, 1)
        spectra, speakers = sources[0], sources.shape[1]
        mixture = spectra.sum(dim=0)
        stft, samples = system.frontend.stft, 128 * (spectra.shape[1] - 1)
        given = stft.synthesise(inputs.masks[0] * mixture, samples)
        scores = pairwise_si_sdr(given[None], stft.synthesise(spectra, samples)[None])
        assert best_permutation(scores)[1][0].tolist() == list(range(speakers))
        orders.add(speakers)
    assert orders == {2, 3}


def test_batches_hold_crops_of_one_number_of_speakers(separated_folder: Path) -> None:
    drawn = ActivityRecordings(separated_folder, tiny_system(), pretrained_speaker_encoder(), pieces=10)
    rng, speakers = np.random.default_rng(0), set()
    for _ in range(12):
        mixtures, sources, inputs = drawn.batch(rng, 3)
        speakers.add(sources.shape[1])
        assert sources.shape == (3, sources.shape[1], 150, 129)
        assert inputs.masks.shape == inputs.nearest.shape == sources.shape
        assert inputs.power.shape == (3, 150, 129)
        assert inputs.likeness.shape == (3, sources.shape[1], 150, 4)
        torch.testing.assert_close(inputs.masks.sum(dim=1), torch.ones(3, 150, 129), atol=0.01, rtol=0)
        torch.testing.assert_close(mixtures, sources.sum(dim=1), atol=0.02, rtol=0)
        power = mixtures.abs().square()
        expected = power / power.mean(dim=(1, 2), keepdim=True)
        torch.testing.assert_close(inputs.power, expected, rtol=1e-3, atol=1e-3)
    assert speakers == {2, 3}


def test_training_lowers_the_loss(separated_folder: Path, tmp_path: Path) -> None:
    drawn = ActivityRecordings(separated_folder, tiny_system(), pretrained_speaker_encoder(), pieces=10)
    rng = np.random.default_rng(100)
    batches = [drawn.batch(rng, 4) for _ in range(4)]
    torch.manual_seed(0)
    network, file = (
        SpeakerActivity(SpeakerActivityConfig(channels=16, dilations=(1, 2))),
        tmp_path / "a.safetensors",
    )

    def loss(network: SpeakerActivity) -> float:
        with torch.no_grad():
            losses = [
                activity_loss(network(inputs), mixture, sources, inputs.masks)
                for mixture, sources, inputs in batches
            ]
        return float(sum(losses))

    before = loss(network)
    train_speaker_activity(drawn, network, file, steps=40)
    # The file holds the average of the weights.
    assert loss(load_speaker_activity(file)) < before - 0.1


def test_the_commands(crowd_corpus: Path, tmp_path: Path) -> None:
    model, folder, output = (
        tmp_path / "model.safetensors",
        tmp_path / "recordings",
        tmp_path / "a.safetensors",
    )
    save_system(tiny_system(), model, ModelFacts(task="separate"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(talk_recipe(crowd_corpus).model_dump(mode="json")), encoding="utf-8")
    mixed = [str(recipe), "--data", str(crowd_corpus), "-o", str(folder), "--model", str(model)]
    separated_recordings.main([*mixed, "--two", "1", "--three", "0"])
    written = (folder / "2-0.npz").stat().st_mtime_ns
    main([str(folder), "-o", str(output), "--model", str(model), "--steps", "2"])
    assert load_speaker_activity(output).config == SpeakerActivityConfig()
    separated_recordings.main([*mixed, "--two", "2", "--three", "0"])
    assert (folder / "2-0.npz").stat().st_mtime_ns == written
    assert (folder / "2-1.npz").is_file()
    main([str(folder), "-o", str(output), "--model", str(model), "--steps", "1", "--init-from", str(output)])


def test_faults_are_one_sentence(
    tmp_path: Path, tiny_denoiser: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output, none = str(tmp_path / "r"), str(tmp_path / "a"), str(tmp_path / "none")
    for run, arguments, message in (
        (
            separated_recordings.main,
            [str(RECIPE), "--model", str(tiny_denoiser), "-o", folder],
            "is not an embedding separator",
        ),
        (separated_recordings.main, [str(RECIPE), "--data", none, "-o", folder], "none"),
        (separated_recordings.main, [none, "-o", folder], "none"),
        (main, [none, "-o", output], "no separated recordings"),
        (main, [folder, "-o", output, "--model", str(tiny_denoiser)], "is not an embedding separator"),
    ):
        with pytest.raises(SystemExit) as stop:
            run(arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "a").exists()
