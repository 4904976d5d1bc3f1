"""Training the speaker encoder on pieces of separated recordings."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import tiny_system
from unmingle.models import ModelFacts, save_system
from unmingle.separation.turns import hear
from unmingle.speaker_encoder import (
    SPEAKER_ENCODER,
    SpeakerEncoder,
    SpeakerEncoderConfig,
    load_speaker_encoder,
    pretrained_speaker_encoder,
    save_speaker_encoder,
)
from unmingle.training.speaker_pieces import (
    Pieces,
    crop,
    fits,
    hear_pieces,
    main,
    pieces_loss,
    train_on_pieces,
)

RATE = 8000


def _pieces(seed: int, speakers: int = 2, pieces: int = 12) -> Pieces:
    draw = torch.Generator().manual_seed(seed)
    voices = torch.nn.functional.normalize(torch.randn(2 * pieces, 4, generator=draw).double(), dim=1)
    who = torch.randint(speakers, (2 * pieces,), generator=draw)
    weights = torch.rand(2 * pieces, generator=draw).double()
    weights[:2] = 0.01
    return Pieces(voices.requires_grad_(), who, weights, torch.arange(pieces).repeat(2), speakers)


def _cosines(pieces: Pieces, piece: int) -> tuple[list[float], list[float]]:
    """With each speaker's voice from pieces that are at least five away, and the weight of these."""
    cosines, amounts = [], []
    for speaker in range(pieces.count):
        total, amount = np.zeros(4), 0.0
        for other in range(len(pieces.speakers)):
            apart = abs(int(pieces.times[other]) - int(pieces.times[piece])) >= 5
            if apart and int(pieces.speakers[other]) == speaker:
                total += float(pieces.weights[other]) * pieces.voices[other].detach().numpy()
                amount += float(pieces.weights[other])
        cosines.append(float(pieces.voices[piece].detach().numpy() @ total / np.linalg.norm(total)))
        amounts.append(amount)
    return cosines, amounts


def test_a_piece_is_compared_with_voices_from_other_places() -> None:
    pieces = _pieces(0, speakers=3, pieces=20)
    cosines, amounts = fits(pieces)
    for piece in range(40):
        expected, weights = _cosines(pieces, piece)
        np.testing.assert_allclose(cosines[piece].detach(), expected, atol=1e-9)
        np.testing.assert_allclose(amounts[piece], weights, atol=1e-9)


def test_the_loss_equals_a_slow_computation_and_has_gradients() -> None:
    batch, scale = [_pieces(0, pieces=20), _pieces(1, speakers=3, pieces=20)], torch.tensor(3.0).double()
    total = weights = 0.0
    for number, pieces in enumerate(batch):
        other = batch[1 - number]
        centres = []
        for speaker in range(other.count):
            own = (other.weights * (other.speakers == speaker)) @ other.voices.detach()
            centres.append(own / own.norm())
        for piece in range(40):
            cosines, amounts = _cosines(pieces, piece)
            weight = float(pieces.weights[piece])
            if weight <= 0.02 or min(amounts) <= 2.0:
                continue
            far = [float(pieces.voices[piece].detach() @ centre) for centre in centres]
            speaker = int(pieces.speakers[piece])
            inside, among_all = (np.exp(3 * np.array(each)) for each in (cosines, cosines + far))
            total -= weight * np.log(inside[speaker] / inside.sum())
            total -= 0.3 * weight * np.log(among_all[speaker] / among_all.sum())
            weights += weight
    assert weights > 0
    loss = pieces_loss(batch, scale)
    assert float(loss.detach()) == pytest.approx(total / weights, rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, batch[0].voices)
    assert gradient.abs().sum() > 0


def test_speakers_that_are_never_apart_give_no_loss() -> None:
    loss = pieces_loss([_pieces(0, pieces=3), _pieces(1, pieces=3)], torch.tensor(3.0))
    assert float(loss.detach()) == 0.0


def test_pieces_are_those_of_the_separation(separated_folder: Path) -> None:
    encoder, stft = pretrained_speaker_encoder(), tiny_system().frontend.stft
    estimates, energy = crop(np.random.default_rng(0), separated_folder / "3-0.npz", stft, 32.0, RATE)
    with torch.no_grad():
        pieces = hear_pieces(encoder, estimates, energy, encoder.features(estimates))
    heard = hear(encoder, estimates.numpy(), RATE)
    count = heard.presence.shape[1]
    assert len(pieces.voices) == 2 * count
    assert pieces.count == 3
    voices = pieces.voices.unflatten(0, (2, count))
    np.testing.assert_allclose(voices[:, 2:-2], heard.voices[:, 2:-2].astype(float), atol=2e-3)
    assert pieces.times.tolist() == [*range(count)] * 2
    # The speaker with most of the energy in the 0.24 s of a piece, which are 15 frames.
    for estimate, piece in ((0, 5), (1, 20), (0, 60), (1, 100)):
        heard_energy = energy[estimate, :, 15 * piece : 15 * piece + 15].sum(dim=1)
        share = float(heard_energy.max() / heard_energy.sum())
        index = estimate * count + piece
        assert int(pieces.speakers[index]) == int(heard_energy.argmax())
        clear = heard.presence[estimate, piece] * max(0.0, 2 * share - 1)
        assert float(pieces.weights[index]) == pytest.approx(clear, abs=0.05)


def test_a_crop_is_what_the_masks_leave_of_the_mixture(separated_folder: Path) -> None:
    stft, rng = tiny_system().frontend.stft, np.random.default_rng(1)
    for name, speakers in (("2-0", 2), ("3-0", 3)):
        estimates, energy = crop(rng, separated_folder / f"{name}.npz", stft, 4.0, RATE)
        assert estimates.shape == (2, 249 * 128)
        assert energy.shape == (2, speakers, 250)
    whole, energy = crop(rng, separated_folder / "2-0.npz", stft, 99.0, RATE)
    with np.load(separated_folder / "2-0.npz") as data:
        mixture = torch.from_numpy(data["mixture"]).float() / 32767
    torch.testing.assert_close(whole.sum(dim=0), mixture, atol=0.01, rtol=0)
    assert energy.shape == (2, 2, 2001)


def test_training_lowers_the_loss(separated_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder, output = SpeakerEncoder(SpeakerEncoderConfig(channels=16, dim=8)), tmp_path / "e.safetensors"
    stft, rng = tiny_system().frontend.stft, np.random.default_rng(3)
    crops = [crop(rng, separated_folder / f"2-{k}.npz", stft, 16.0, RATE) for k in (0, 1)]

    def loss(encoder: SpeakerEncoder) -> float:
        with torch.no_grad():
            batch = [hear_pieces(encoder, *each, encoder.features(each[0])) for each in crops]
            return float(pieces_loss(batch, torch.tensor(16.0)))

    before = loss(deepcopy(encoder).eval())
    train_on_pieces(encoder, separated_folder, stft, output, steps=30)
    assert loss(load_speaker_encoder(output)) < before - 0.05


def test_the_command(separated_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, output, slow = (tmp_path / f"{name}.safetensors" for name in ("model", "e", "slow"))
    save_system(tiny_system(), model, ModelFacts(task="separate"))
    arguments = [str(separated_folder), "-o", str(output), "--model", str(model)]
    main([*arguments, "--init-from", str(SPEAKER_ENCODER), "--steps", "1"])
    assert load_speaker_encoder(output).config == pretrained_speaker_encoder().config
    save_speaker_encoder(SpeakerEncoder(SpeakerEncoderConfig(sample_rate=16000, channels=4, dim=4)), slow)
    for first, message in ((tmp_path / "none", "missing"), (slow, "16000 Hz")):
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--init-from", str(first)])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
