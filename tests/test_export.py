"""Exported models: the graphs in onnxruntime give what PyTorch gives, for every kind of system, on real audio."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from conftest import EXAMPLES, MIXTURE, TINY_BLSTM, TINY_CNN, Result, tiny_values
from unmingle.audio import read_audio, resample
from unmingle.denoising import Enhancer, load_denoiser
from unmingle.errors import UnmingleError
from unmingle.export import export_model
from unmingle.models import ModelFacts, file_hash, load_system, read_facts, save_system
from unmingle.separation import load
from unmingle.systems import SYSTEM_CONFIG, DenoisingSystem, EmbeddingSeparator, MaskingSystem, build_system
from unmingle.training.fixed_attractors import fix_attractors

NOISY = EXAMPLES / "in_noise" / "noisy" / "reader_in_wind.flac"
TINY_LSTM = {"layers": 2, "hidden_size": 8}
UPIT = {"kind": "mask_inference", "network": TINY_BLSTM, "speakers": 3}
REFINED = {"kind": "two_stage", "network": TINY_BLSTM, "speakers": 2}
EXPERTS = {"kind": "local_experts", "network": TINY_LSTM}
KINDS: dict[str, dict[str, Any]] = {
    "adanet": tiny_values(),
    "adanet_equalized": tiny_values(stft={"hop": 64, "equalize": True}, mask="sigmoid"),
    "adanet_1_to_3": tiny_values(speakers=3, fewest_speakers=1, mask="softmax_with_rest"),
    "dilated_cnn": tiny_values(network=TINY_CNN, unit_norm=True, learned_scale=True, weight={"rule": "log_range"}),
    "dual_path": tiny_values(
        stft={"hop": 128},
        network={"kind": "dual_path", "blocks": 1, "channels": 8},
    ),
    "hard_masks": tiny_values(evaluation_mask="hard", weight={"rule": "all"}),
    "danet_fixed": tiny_values(training_formation="oracle", formation="fixed", weight={"rule": "near_loudest"}),
    "dpcl": tiny_values(
        objective="affinity", formation="spherical_kmeans", mask="assignment", unit_norm=True, speakers=3
    ),
    "danet_kmeans": tiny_values(
        training_formation="oracle", formation="kmeans", unit_norm=True, learned_scale=True, mask="softmax"
    ),
    "odanet": tiny_values(
        stft={"hop": 128, "level": "running"},
        network=TINY_LSTM | {"kind": "lstm"},
        training_formation="running_anchored",
        formation="running_anchored",
        weight={"rule": "near_level"},
    ),
    "running_level": tiny_values(stft={"hop": 128, "level": "running"}, network=TINY_LSTM | {"kind": "lstm"}),
    "upit": UPIT,
    "upit_st": {**REFINED, "refiner": "second_stage", "first": {**UPIT, "speakers": 2}},
    "dpcl_end_to_end": {
        **REFINED,
        "stft": {"hop": 128},
        "first": tiny_values(formation="soft_kmeans", training_formation="soft_kmeans", unit_norm=True),
    },
    "denoiser": {"kind": "denoiser", "network": TINY_LSTM},
    "experts_with_gate": {**EXPERTS, "gate": TINY_LSTM},
    "experts_with_specialist": {
        **EXPERTS, "gate": {"specialist": 1, "seconds": 0.5}, "prelude_seconds": 0.5, "bands_above": 750.0,
    },
    "experts_with_hidden_layer": {**EXPERTS, "gate": {"specialist": 1, "seconds": 0.5, "hidden_size": 8}},
}  # fmt: skip


@cache
def _audio(path: Path, rate: int) -> np.ndarray[Any, Any]:
    recording = read_audio(path)
    return resample(recording.samples[0], recording.sample_rate, rate)[: 4 * rate]


def _written(values: dict[str, Any], folder: Path) -> Path:
    """A model file of a system with random weights that has heard real audio."""
    torch.manual_seed(0)
    system = build_system(SYSTEM_CONFIG.validate_python(values)).eval()
    system.fit(torch.from_numpy(_audio(NOISY, system.sample_rate))[None])
    for name, parameter in system.named_parameters():
        if name.endswith(("network.linear.weight", "convolutions.12.weight")):
            parameter.data *= 10  # Random weights make flat masks, in which nothing could go wrong.
    for name, buffer in system.named_buffers():
        if name.endswith("formation.points"):
            buffer.normal_()
    path = folder / "model.safetensors"
    save_system(system, path, ModelFacts())
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_give_what_pytorch_gives(kind: str, tmp_path: Path) -> None:
    path = _written(KINDS[kind], tmp_path)
    export_model(path, tmp_path / "exported")
    ours, exported = load_system(path), load_system(tmp_path / "exported")
    assert isinstance(ours, MaskingSystem)
    assert isinstance(exported, MaskingSystem)
    mixture = torch.from_numpy(_audio(MIXTURE, ours.sample_rate))[None]
    most = ours.most_speakers() or 3
    assert (exported.most_speakers() or 3) == most
    with torch.no_grad():
        for speakers in range(1, most + 1):
            _, masks, attractors = ours.mask_and_attractors(mixture, speakers)
            _, others, points = exported.mask_and_attractors(mixture, speakers)
            assert masks.std() > 0.01 or masks.min() == masks.max() == 1  # One of one speaker.
            # Masks of uPIT may be large.
            torch.testing.assert_close(others, masks, atol=1e-4 * float(masks.max().clamp_min(1)), rtol=0)
            if attractors is not None:
                torch.testing.assert_close(points, attractors, atol=1e-4, rtol=1e-4)
        counted, known = exported.count(mixture), ours.count(mixture)
    if known is not None:
        assert counted is not None
        assert counted.count.tolist() == known.count.tolist()
    assert exported.parameter_count() == ours.parameter_count()
    assert exported.multiply_accumulates(1.0) == ours.multiply_accumulates(1.0)
    assert exported.working_bytes(1.0, 1) == ours.working_bytes(1.0, 1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith(("denoiser", "experts"))])
def test_streams_of_a_frame_at_a_time_are_those_of_pytorch(kind: str, tmp_path: Path) -> None:
    path = _written(KINDS[kind], tmp_path)
    export_model(path, tmp_path / "exported")
    noisy = _audio(NOISY, 16000)
    cleaned = []
    for system in (load_system(path), load_system(tmp_path / "exported")):
        assert isinstance(system, DenoisingSystem)
        stream = Enhancer(system, "tiny", path).stream(16000)
        blocks = [stream.push(noisy[start : start + 256]) for start in range(0, len(noisy), 256)]
        cleaned.append(np.concatenate([*blocks, stream.flush()]))
    assert np.abs(cleaned[0]).max() > 0.01
    np.testing.assert_allclose(cleaned[1], cleaned[0], atol=1e-5)


@pytest.mark.usefixtures("in_float32")
def test_the_pretrained_separator_and_denoiser(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Through the commands, on the examples: the files are the same to 1e-4 of full scale."""
    for command, model, audio in (
        ("separate", "separator-8khz", MIXTURE),  # It counts the speakers, exported or not.
        ("denoise", "denoiser-16khz", NOISY),
    ):
        exported = tmp_path / model
        result: Result = run("export", model, "-o", exported)
        assert result.code == 0, result.err
        for name, chosen in (("torch", model), ("onnx", exported)):
            assert run(command, audio, "--model", chosen, "--threads", 1, "-o", tmp_path / name).code == 0
    written = sorted((tmp_path / "torch").iterdir())
    assert len(written) == 3
    for path in written:
        samples, _ = soundfile.read(path)
        np.testing.assert_allclose(soundfile.read(tmp_path / "onnx" / path.name)[0], samples, atol=1e-4)


def test_a_batch_and_a_moment_go_through_the_graphs(tmp_path: Path) -> None:
    path = _written(KINDS["adanet"], tmp_path)
    export_model(path, tmp_path / "exported")
    ours, exported = load_system(path), load_system(tmp_path / "exported")
    long = torch.from_numpy(_audio(MIXTURE, 8000)).reshape(2, -1)
    for mixture in (long, long[:1, 4000:4001]):
        separated = exported.separate(mixture, 2)
        torch.testing.assert_close(separated.sources, ours.separate(mixture, 2).sources, atol=1e-5, rtol=0)


def test_long_recordings_keep_the_running_level(tmp_path: Path) -> None:
    """Beyond the frames that one run of the graph takes."""
    path = _written(KINDS["denoiser"], tmp_path)
    export_model(path, tmp_path / "exported")
    ours, exported = load_system(path), load_system(tmp_path / "exported")
    assert isinstance(ours, MaskingSystem)
    assert isinstance(exported, MaskingSystem)
    loudness = torch.linspace(0, 40, 12_000).sin().square()[None, :, None]
    magnitude = loudness * torch.rand(1, 12_000, ours.frontend.stft.freqs)
    features, others = (
        system.frontend.step(magnitude, system.frontend.initial_state(1)) for system in (ours, exported)
    )
    torch.testing.assert_close(others, features, atol=1e-4, rtol=0)


def test_the_description_says_what_a_program_needs(tiny_model: Path, tmp_path: Path) -> None:
    export_model(tiny_model, tmp_path / "exported")
    described = json.loads((tmp_path / "exported" / "model.json").read_text())
    assert described["sample_rate"] == 8000
    assert described["stft"] | {"frames": ""} == {
        "window": "sqrt_hann", "window_length": 256, "hop": 128, "frames": "",
    }  # fmt: skip
    assert described["counting"]["range_db"] == 20
    graphs = described["graphs"]
    assert graphs["embed.onnx"]["inputs"] == {"magnitude": ["batch", "frames", 129]}
    assert graphs["masks_2.onnx"]["outputs"]["masks"] == ["batch", 2, "frames", 129]
    assert set(graphs) == {path.name for path in (tmp_path / "exported").glob("*.onnx")}
    assert read_facts(tmp_path / "exported")[0] == read_facts(tiny_model)[0]
    assert len(file_hash(tmp_path / "exported")) == 12


def test_weights_in_half_precision_stay_so(tiny_model: Path, tmp_path: Path) -> None:
    """Lossless, and half the size."""
    export_model(tiny_model, tmp_path / "exported")
    values = sum(parameter.numel() for parameter in load_system(tiny_model).parameters())
    assert (tmp_path / "exported" / "embed.onnx").stat().st_size < 2.5 * values + 20_000


def test_what_cannot_be_exported_is_said_in_a_sentence(run, tiny_model: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    oracle = _written(tiny_values(training_formation="oracle", formation="oracle"), tmp_path)
    result = run("export", oracle, "-o", "out")
    assert result.code == 2
    assert "Oracle attractors cannot be exported" in result.err
    assert not Path("out").exists()
    assert run("export", tiny_model, "-o", "out").code == 0
    assert "exists; add --overwrite" in run("export", tiny_model, "-o", "out").err
    assert "is exported; name the model" in run("export", "out", "-o", "again").err
    with pytest.raises(UnmingleError, match="from 1 to 4; got 9"):
        load("out").system.separate(torch.zeros(1, 800), 9)


def test_damaged_folders_are_said_in_a_sentence(run, tiny_model: Path, tiny_denoiser: Path) -> None:  # type: ignore[no-untyped-def]
    folder = Path("out")
    assert run("export", tiny_model, "-o", folder).code == 0
    with pytest.raises(UnmingleError, match="separates speakers"):
        load_denoiser(folder)
    (folder / "embed.onnx").write_bytes(b"no graph")
    with pytest.raises(UnmingleError, match=r"embed\.onnx is damaged"):
        load(folder)
    (folder / "embed.onnx").unlink()
    with pytest.raises(UnmingleError, match=r"embed\.onnx cannot be read"):
        load(folder)
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text.replace('"format_version": "1"', '"format_version": "9"'))
    with pytest.raises(UnmingleError, match="has format '9'"):
        load(folder)
    (folder / "model.json").write_text(text[:100])
    with pytest.raises(UnmingleError, match=r"model\.json is damaged"):
        load(folder)


def test_an_earlier_export_into_the_folder_is_not_mixed_in(tiny_model: Path, tmp_path: Path) -> None:
    export_model(tiny_model, tmp_path / "exported")
    path = _written(tiny_values(anchors=2, dimension=3), tmp_path)
    export_model(path, tmp_path / "exported", overwrite=True)
    assert (tmp_path / "exported" / "masks_4.onnx").exists()
    exported = load_system(tmp_path / "exported")
    assert exported.most_speakers() == 2
    exported.separate(torch.zeros(1, 800), 2)


def test_more_speakers_than_fit_in_a_graph_are_refused(tmp_path: Path) -> None:
    export_model(_written(tiny_values(anchors=8), tmp_path), tmp_path / "exported")
    exported = load_system(tmp_path / "exported")
    assert exported.most_speakers() == 2
    with pytest.raises(UnmingleError, match="from 1 to 2; got 3"):
        exported.separate(torch.zeros(1, 800), 3)


def test_without_onnxruntime_the_extra_is_named(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_model(tiny_model, tmp_path / "exported")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UnmingleError, match=r"pip install 'unmingle\[onnx\]'"):
        load(tmp_path / "exported")


def test_evaluation_takes_an_exported_model(run, tiny_model: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    export_model(tiny_model, tmp_path / "exported")
    mixtures = EXAMPLES / "two_speakers"
    for model in (tiny_model, tmp_path / "exported"):
        result = run(
            "evaluate",
            mixtures,
            "--model",
            model,
            "--metric",
            "si_sdr",
            "--processes",
            1,
            "-o",
            f"scores/{model.stem}",
        )
        assert result.code == 0, result.err
    scores = [
        json.loads((Path("scores") / name / "summary.json").read_text())["metrics"]["si_sdr"]["mean"]
        for name in ("tiny", "exported")
    ]
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)


def test_an_exported_model_says_what_only_weights_can(tiny_model: Path, tmp_path: Path) -> None:
    export_model(tiny_model, tmp_path / "exported")
    with pytest.raises(UnmingleError, match="is exported; name the model"):
        fix_attractors(str(tmp_path / "exported"), [], tmp_path / "fixed.safetensors", 1, 1.0)
    with pytest.raises(UnmingleError, match="export it with them"):
        load_system(tmp_path / "exported", changes={"formation": "kmeans"})
    system = load_system(tmp_path / "exported")
    assert isinstance(system, EmbeddingSeparator)
    with pytest.raises(UnmingleError, match="one by one"):
        system.embed(torch.zeros(1, 800), torch.tensor([400]))
    with pytest.raises(UnmingleError, match="inside a graph"):
        _ = system.frontend(torch.zeros(1, 800)).features
