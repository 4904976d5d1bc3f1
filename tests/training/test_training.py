from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from conftest import TINY_BLSTM, tiny_values
from unmingle.attractors import FixedAttractors
from unmingle.audio import write_audio
from unmingle.data.batches import Crops, iterate
from unmingle.data.examples import active_sources
from unmingle.data.mixture_writing import MixtureFolderConfig, write_mixture_folder
from unmingle.data.premixed import PremixedMixtures
from unmingle.errors import UnmingleError
from unmingle.models import ModelFacts, load_system, save_system
from unmingle.systems import EmbeddingSeparator, MaskInference, MaskInferenceConfig, TwoStage
from unmingle.training.fixed_attractors import fix_attractors
from unmingle.training.initial import fresh_system
from unmingle.training.loop import Options, train
from unmingle.training.mixtures import training_mixer, validation_mixer
from unmingle.training.recipe import Recipe, Stage, shrink
from unmingle.training.run_folder import Progress, RunFolder
from unmingle.training.schedule import learning_rate


def _recipe(corpus: Path, steps: int = 6, **changes: object) -> Recipe:
    values: dict[str, object] = {
        "name": "tiny",
        "data": [str(corpus)],
        "system": tiny_values(network=TINY_BLSTM | {"dropout": 0.2}),
        "stages": [
            {"seconds": 0.5, "steps": steps, "batch_size": 2, "validate_every": 3, "schedule": "decay"}
        ],
        "validation": {"count": 2, "seconds": 1.0},
    }
    return Recipe.model_validate(values | changes)


def _weights(run: Path) -> torch.Tensor:
    state = RunFolder(run).load()[0]["system"]
    return torch.cat([value.flatten() for value in state.values()])


def _log(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "log.csv").read_text(encoding="utf-8").splitlines()))


def test_a_run_learns_logs_and_leaves_a_model_that_separates(example_corpus: Path, tmp_path: Path) -> None:
    progress = train(_recipe(example_corpus), tmp_path / "run", Options(workers=0))
    assert (progress.total_steps, progress.audio_seconds) == (6, 6.0)
    rows = _log(tmp_path / "run")
    assert [row["step"] for row in rows] == ["3", "6"]
    assert (tmp_path / "run" / "curve.png").stat().st_size > 1000
    best = load_system(tmp_path / "run" / "best.safetensors")
    assert best.separate(torch.randn(1, 4000)).sources.isfinite().all()


def test_a_run_skips_silent_files_and_names_them_once(
    example_corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_audio(tmp_path / "silent.wav", np.zeros(8000, dtype=np.float32), 8000)
    rows = example_corpus.read_text().splitlines()
    speaker = rows[1].split(",")[2]
    manifest = tmp_path / "speech.csv"
    moved = [
        ",".join([str(example_corpus.parent / row.split(",")[0]), *row.split(",")[1:]]) for row in rows[1:]
    ]
    silent = f"silent.wav,examples,{speaker},F,train,"
    manifest.write_text("\n".join([rows[0], *moved, silent]) + "\n")
    train(_recipe(manifest), tmp_path / "run", Options(workers=0))
    assert len(_log(tmp_path / "run")) == 2
    told = [record.getMessage() for record in caplog.records if "silent" in record.getMessage()]
    assert told == [
        f"1 of {sum(',train,' in row for row in rows) + 1} files are silent and are skipped: "
        f"{tmp_path / 'silent.wav'}"
    ]


@pytest.mark.parametrize("average", [None, 0.9])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    example_corpus: Path, tmp_path: Path, average: float | None
) -> None:
    recipe = _recipe(example_corpus, average=average)
    train(recipe, tmp_path / "whole", Options(workers=0))
    train(recipe, tmp_path / "parts", Options(workers=0, minutes=0.0))
    stopped = RunFolder(tmp_path / "parts").load()[1]
    assert stopped.step == 1
    torch.rand(100)  # The generator's state must come from the checkpoint.
    train(recipe, tmp_path / "parts", Options(workers=0, resume=True))
    torch.testing.assert_close(_weights(tmp_path / "parts"), _weights(tmp_path / "whole"))
    saved = [load_file(tmp_path / run / "last.safetensors") for run in ("parts", "whole")]
    trained = RunFolder(tmp_path / "whole").load()[0]["system"]
    for name, value in saved[1].items():
        torch.testing.assert_close(saved[0][name], value)
        # Half precision rounds; an average is further off than that.
        last = torch.equal(value, trained[name].to(value.dtype))
        assert last == (average is None or "frontend" in name)


def test_a_killed_run_goes_on(example_corpus: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    stage = {"seconds": 0.5, "steps": 2000, "batch_size": 2, "validate_every": 3, "schedule": "constant"}
    values = _recipe(example_corpus, stages=[stage]).model_dump(mode="json")
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    arguments = [
        sys.executable,
        "-m",
        "unmingle",
        "train",
        str(recipe),
        "-o",
        str(tmp_path / "run"),
        "--threads",
        "1",
    ]
    folder = RunFolder(tmp_path / "run")
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not folder.checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGKILL)
    before = folder.load()[1]
    assert 0 < before.total_steps < 2000
    short = Recipe.model_validate(values).model_copy(
        update={
            "stages": [Recipe.model_validate(values).stages[0].model_copy(update={"steps": before.step + 2})]
        }
    )
    after = train(short, tmp_path / "run", Options(workers=0, resume=True))
    assert after.total_steps == before.total_steps + 2
    train(short, tmp_path / "whole", Options(workers=0, threads=1))
    torch.testing.assert_close(_weights(tmp_path / "run"), _weights(tmp_path / "whole"), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_two_processes_share_the_work(example_corpus: Path, tmp_path: Path, precision: str) -> None:
    recipe = _recipe(example_corpus, steps=2, system=tiny_values(), precision=precision)
    values = tmp_path / "recipe.yaml"
    values.write_text(yaml.safe_dump(recipe.model_dump(mode="json")), encoding="utf-8")
    arguments = ["train", str(values), "-o", str(tmp_path / "two"), "--processes", "2", "--threads", "2"]
    two = subprocess.run([sys.executable, "-m", "unmingle", *arguments], capture_output=True, text=True)
    assert two.returncode == 0, two.stderr
    train(recipe, tmp_path / "one", Options(workers=0))
    # The mean of two halves' gradients is the whole batch's, so the weights agree; were the audio rounded to
    # bfloat16 with the network, they would differ by 1e-4 in the mean.
    difference = (_weights(tmp_path / "two") - _weights(tmp_path / "one")).abs()
    assert difference.max() < 1e-3
    assert difference.mean() < 1e-5


def test_what_goes_wrong_in_another_process_is_one_sentence(example_corpus: Path, tmp_path: Path) -> None:
    stage = {"seconds": 0.5, "steps": 4, "batch_size": 2, "learning_rate": 1e30, "schedule": "constant"}
    recipe = _recipe(example_corpus, system=tiny_values(), stages=[stage], clip_norm=None)
    values = tmp_path / "recipe.yaml"
    values.write_text(yaml.safe_dump(recipe.model_dump(mode="json")), encoding="utf-8")
    arguments = ["train", str(values), "-o", str(tmp_path / "run"), "--processes", "2", "--threads", "2"]
    run = subprocess.run([sys.executable, "-m", "unmingle", *arguments], capture_output=True, text=True)
    assert run.returncode == 2
    assert "The loss is not finite" in run.stderr
    assert "Traceback" not in run.stderr


def test_init_from_begins_with_the_weights_of_a_model(example_corpus: Path, tmp_path: Path) -> None:
    recipe = _recipe(example_corpus)
    train(recipe, tmp_path / "first", Options(workers=0))
    model = tmp_path / "first" / "last.safetensors"
    still = recipe.model_copy(
        update={"stages": [recipe.stages[0].model_copy(update={"learning_rate": 1e-12, "steps": 1})]}
    )
    train(still, tmp_path / "second", Options(workers=0, init_from=str(model)))
    first, second = (
        load_system(path).state_dict() for path in (model, tmp_path / "second" / "last.safetensors")
    )
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-6, rtol=0)
    other = _recipe(example_corpus, system=tiny_values(network=TINY_BLSTM | {"hidden_size": 9}))
    with pytest.raises(UnmingleError, match="another network"):
        train(other, tmp_path / "third", Options(workers=0, init_from=str(model)))


def test_plateau_halves_the_rate_and_stops_early(example_corpus: Path, tmp_path: Path) -> None:
    stage = {
        "seconds": 0.3,
        "steps": 50,
        "batch_size": 1,
        "validate_every": 1,
        "halve_after": 2,
        "stop_after": 5,
    }
    recipe = _recipe(example_corpus, stages=[stage | {"learning_rate": 1e-20}], system=tiny_values())
    progress = train(recipe, tmp_path / "run", Options(workers=0))
    rates = [float(row["learning_rate"]) for row in _log(tmp_path / "run")]
    # A rate this small changes nothing: the first validation stays the best one.
    assert rates == pytest.approx([1e-20, 1e-20, 5e-21, 5e-21, 2.5e-21, 2.5e-21], rel=1e-5)
    assert progress.total_steps == 6


def test_runs_do_not_overwrite_each_other(example_corpus: Path, tmp_path: Path) -> None:
    recipe = shrink(_recipe(example_corpus))
    with pytest.raises(UnmingleError, match="no checkpoint"):
        train(recipe, tmp_path / "run", Options(workers=0, resume=True))
    train(recipe, tmp_path / "run", Options(workers=0))
    with pytest.raises(UnmingleError, match="--resume"):
        train(recipe, tmp_path / "run", Options(workers=0))
    other = _recipe(example_corpus, system=tiny_values(anchors=5))
    with pytest.raises(UnmingleError, match="another system"):
        train(other, tmp_path / "run", Options(workers=0, resume=True))
    (tmp_path / "run" / "last.checkpoint").write_bytes(b"damaged")
    with pytest.raises(UnmingleError, match="damaged"):
        train(recipe, tmp_path / "run", Options(workers=0, resume=True))


def test_parts_of_a_system_are_trained_in_turn(example_corpus: Path, tmp_path: Path) -> None:
    """dpcl, enhancement, end to end; the model at the end of each stage is left."""
    dpcl = tiny_values(objective="affinity", unit_norm=True, formation="soft_kmeans", mask="assignment")
    system = {"kind": "two_stage", "stft": {"hop": 128}, "first": dpcl, "network": TINY_BLSTM}
    stage = {"seconds": 0.5, "steps": 2, "batch_size": 2, "validate_every": 2, "schedule": "constant"}
    stages = [stage | {"part": part} for part in ("first", "second", "all")]
    recipe = _recipe(example_corpus, system=system, stages=stages, optimizer="rmsprop", clip_norm=None)
    train(recipe, tmp_path / "run", Options(workers=0))
    first, second, both = (load_system(tmp_path / "run" / f"stage-{n}.safetensors") for n in (1, 2, 3))
    assert isinstance(first, EmbeddingSeparator)
    assert isinstance(second, TwoStage)
    assert isinstance(both, TwoStage)
    held = dict(second.first.named_parameters())
    assert all(torch.equal(value, held[name]) for name, value in first.named_parameters())
    moved = dict(both.first.named_parameters())
    assert any(not torch.equal(value, moved[name]) for name, value in first.named_parameters())
    # The first stage of another run can come from a model.
    later = _recipe(
        example_corpus, system=system, stages=[stage | {"part": "second", "learning_rate": 1e-12}]
    )
    model = str(tmp_path / "run" / "stage-1.safetensors")
    train(later, tmp_path / "later", Options(workers=0, init_from=model))
    given = load_system(tmp_path / "later" / "last.safetensors")
    assert isinstance(given, TwoStage)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(given.first.state_dict()[name], value)


def test_a_model_begins_a_run_with_other_attractors_and_speakers(
    example_corpus: Path, tmp_path: Path
) -> None:
    train(_recipe(example_corpus, steps=3), tmp_path / "two", Options(workers=0))
    changed = _recipe(
        example_corpus,
        steps=1,
        system=tiny_values(training_formation="oracle", formation="kmeans", fewest_speakers=1),
        mixing={"fewest_speakers": 1},
    )
    model = str(tmp_path / "two" / "last.safetensors")
    progress = train(changed, tmp_path / "next", Options(workers=0, init_from=model))
    assert progress.total_steps == 1


def test_training_on_mixtures_made_before(example_corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    for name, split in (("tr", "train"), ("cv", "valid")):
        config = MixtureFolderConfig(corpora=[str(example_corpus)], split=split, count=3, seed=1)
        write_mixture_folder(tmp_path / "made" / name, config)
    recipe = _recipe(tmp_path / "made", steps=3)
    assert train(recipe, tmp_path / "run", Options(workers=1)).total_steps == 3
    both = recipe.model_copy(update={"data": [*recipe.data, str(example_corpus)]})
    with pytest.raises(UnmingleError, match="one kind"):
        train(both, tmp_path / "other", Options(workers=0))


def test_halving_halves_after_so_many_epochs(example_corpus: Path, tmp_path: Path) -> None:
    stage = {"seconds": 0.3, "steps": 6, "batch_size": 1, "validate_every": 1, "halve_after": 2}
    recipe = _recipe(example_corpus, stages=[stage | {"schedule": "halving", "learning_rate": 1e-3}])
    train(recipe, tmp_path / "run", Options(workers=0))
    rates = [float(row["learning_rate"]) for row in _log(tmp_path / "run")]
    assert rates == pytest.approx([1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4, 1.25e-4])


def test_fixed_attractors_are_collected_and_stored(
    example_corpus: Path, tmp_path: Path, tiny_model: Path
) -> None:
    output = tmp_path / "fixed.safetensors"
    points = fix_attractors(tiny_model, [str(example_corpus)], output, 8, 1.0)
    system = load_system(output)
    assert isinstance(system, EmbeddingSeparator)
    assert isinstance(system.formation, FixedAttractors)
    torch.testing.assert_close(system.formation.points, points, atol=2e-3, rtol=2e-3)  # half precision
    assert points.abs().sum() > 0
    assert system.separate(torch.randn(1, 4000), 2).sources.isfinite().all()
    with pytest.raises(UnmingleError, match="--overwrite"):
        fix_attractors(tiny_model, [str(example_corpus)], output, 8, 1.0)
    with pytest.raises(UnmingleError, match="safetensors"):
        fix_attractors(tiny_model, [str(example_corpus)], tmp_path / "fixed.bin", 8, 1.0)
    upit = MaskInference(MaskInferenceConfig.model_validate({"network": TINY_BLSTM}))
    save_system(upit, tmp_path / "upit.safetensors", ModelFacts())
    with pytest.raises(UnmingleError, match="has no embeddings"):
        fix_attractors(
            tmp_path / "upit.safetensors", [str(example_corpus)], tmp_path / "x.safetensors", 8, 1.0
        )


def test_a_stop_in_an_epoch_is_no_epoch_to_the_schedule(example_corpus: Path, tmp_path: Path) -> None:
    stage = {"seconds": 0.3, "steps": 50, "batch_size": 1, "validate_every": 10, "halve_after": 2}
    recipe = _recipe(example_corpus, stages=[stage | {"schedule": "halving"}])
    for _ in range(3):
        resume = (tmp_path / "run").exists()
        train(recipe, tmp_path / "run", Options(workers=0, minutes=0.0, resume=resume))
    progress = RunFolder(tmp_path / "run").load()[1]
    assert (progress.step, progress.factor, progress.since_best) == (3, 1.0, 0)


def test_validation_looks_at_the_speakers_wherever_they_stand(tmp_path: Path) -> None:
    """Made mixtures may have a silent first source; with fewer than two speakers nothing can improve."""
    made = tmp_path / "made"
    voice = np.random.default_rng(0).normal(size=(2, 8000)).astype(np.float32) * 0.1
    silence = np.zeros(8000, dtype=np.float32)
    cases = {"a": (silence, voice[0], voice[1]), "b": (silence, silence, voice[0]), "c": (silence,) * 3}
    for split in ("tr", "cv"):
        for name, sources in cases.items():
            for folder, samples in zip(("s1", "s2", "s3"), sources, strict=True):
                write_audio(made / split / folder / f"{name}.wav", samples, 8000)
            write_audio(made / split / "mix" / f"{name}.wav", sum(sources), 8000)  # type: ignore[arg-type]
    recipe = _recipe(made, system=tiny_values(speakers=3), mixing={"speakers": 3}, steps=3)
    recipe = recipe.model_copy(update={"validation": recipe.validation.model_copy(update={"count": 30})})
    train(recipe, tmp_path / "run", Options(workers=0))
    score = float(_log(tmp_path / "run")[-1]["validation_si_sdr_improvement"])
    assert abs(score) < 20  # a silent reference, or a single speaker's, would be a hundred away


def test_errors_of_the_worker_process_are_one_sentence(example_corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    for name, split in (("tr", "train"), ("cv", "valid")):
        config = MixtureFolderConfig(corpora=[str(example_corpus)], split=split, count=2, seed=1)
        write_mixture_folder(tmp_path / "made" / name, config)
    mixtures = PremixedMixtures([tmp_path / "made"], "train", 16000, 2, 0)
    with pytest.raises(UnmingleError, match=r"^[^\n]*8000 Hz[^\n]*$"):
        list(iterate(Crops(mixtures, 0.5, 2, batches=2), workers=1))


def test_what_does_not_fit_is_refused_before_the_work(example_corpus: Path, tmp_path: Path) -> None:
    recipe = _recipe(example_corpus, steps=2)
    train(recipe, tmp_path / "run", Options(workers=0))
    model = str(tmp_path / "run" / "last.safetensors")
    for changes in (
        {"network": TINY_BLSTM | {"residual": True}},
        {"stft": {"hop": 128, "window": "hann"}},
        {"unit_norm": True},
        {"anchors": 3},
    ):
        other = _recipe(example_corpus, system=tiny_values(**changes))
        with pytest.raises(UnmingleError, match="another network"):
            train(other, tmp_path / "other", Options(workers=0, init_from=model))
    with pytest.raises(UnmingleError, match="another optimizer"):
        train(
            recipe.model_copy(update={"optimizer": "rmsprop"}),
            tmp_path / "run",
            Options(workers=0, resume=True),
        )


def test_a_stage_may_have_its_own_number_of_speakers(crowd_corpus: Path, tmp_path: Path) -> None:
    stage = {"seconds": 0.5, "steps": 1, "batch_size": 2}
    recipe = _recipe(
        crowd_corpus,
        system=tiny_values(speakers=3, fewest_speakers=2),
        mixing={"speakers": 3, "fewest_speakers": 2},
        stages=[stage | {"most_speakers": 2}, stage | {"fewest_speakers": 3}, stage],
    )
    for opened in (training_mixer, validation_mixer):
        counts = []
        for each in recipe.stages:
            mixer = opened(recipe, None, each)
            counts.append({int(active_sources(mixer.example(k, 4000)).sum()) for k in range(20)})
        assert counts == [{2}, {3}, {2, 3}]
        assert mixer.example(0, 4000).sources.shape == (3, 4000)
    train(recipe, tmp_path / "run", Options(workers=0))
    with pytest.raises(ValueError, match="more than most_speakers"):
        Recipe.model_validate(
            recipe.model_dump() | {"stages": [stage | {"most_speakers": 2, "fewest_speakers": 3}]}
        )


def test_stages_are_validated_on_their_own_numbers_of_speakers(crowd_corpus: Path, tmp_path: Path) -> None:
    """Two speakers, then two and three: the loss of the same weights is that of other mixtures."""
    stage = {"seconds": 0.5, "steps": 1, "batch_size": 2, "learning_rate": 1e-12}
    recipe = _recipe(
        crowd_corpus,
        system=tiny_values(speakers=3, fewest_speakers=2),
        mixing={"speakers": 3, "fewest_speakers": 2},
        stages=[stage | {"fewest_speakers": 3}, stage, stage],
        validation={"count": 12, "seconds": 1.0},
    )
    train(recipe, tmp_path / "run", Options(workers=0))
    first, second, third = (float(row["validation_loss"]) for row in _log(tmp_path / "run"))
    assert first != pytest.approx(second, rel=1e-3)
    assert second == pytest.approx(third, rel=1e-5)


def test_a_folder_of_two_and_one_of_three_speakers_are_trained_on_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for count in (2, 3):
        for split in ("tr", "cv"):
            sources = 0.1 * rng.standard_normal((count, 8000), dtype=np.float32)
            write_audio(tmp_path / str(count) / split / "mix" / "a.wav", sources.sum(axis=0), 8000)
            for number, samples in enumerate(sources, start=1):
                write_audio(tmp_path / str(count) / split / f"s{number}" / "a.wav", samples, 8000)
    both = {"speakers": 3, "fewest_speakers": 2}
    recipe = _recipe(tmp_path / "2", steps=2, system=tiny_values(**both), mixing=both)
    recipe = recipe.model_copy(update={"data": [str(tmp_path / "2"), str(tmp_path / "3")]})
    assert train(recipe, tmp_path / "run", Options(workers=0)).total_steps == 2
    alone = recipe.model_copy(update={"data": [str(tmp_path / "3")]})
    with pytest.raises(UnmingleError, match="add --data with 2 speakers"):
        train(alone, tmp_path / "alone", Options(workers=0))
    assert not (tmp_path / "alone").exists()


def test_mixtures_and_corpora_are_not_trained_on_together(example_corpus: Path, tmp_path: Path) -> None:
    write_audio(tmp_path / "made" / "tr" / "mix" / "a.wav", np.zeros(80, dtype=np.float32), 8000)
    recipe = _recipe(example_corpus).model_copy(
        update={"data": [str(example_corpus), str(tmp_path / "made")]}
    )
    with pytest.raises(UnmingleError, match="one kind"):
        train(recipe, tmp_path / "run", Options(workers=0))


@pytest.mark.parametrize(("kept", "average"), [("best", None), ("best", 0.5), ("last", None)])
def test_a_stage_that_stops_early_hands_over_its_best_weights(
    kept: str, average: float | None, example_corpus: Path, tmp_path: Path
) -> None:
    """The rate is so high that the first epoch stays the best; the second stage does not move."""
    stage = {"seconds": 0.5, "batch_size": 2, "steps": 6, "validate_every": 1}
    stages = [
        stage | {"learning_rate": 5.0, "stop_after": 2} | ({} if kept == "best" else {"hand_over": "last"}),
        stage | {"learning_rate": 1e-12, "steps": 1, "schedule": "constant"},
    ]
    recipe = _recipe(example_corpus, stages=stages, average=average, seed=3)
    train(recipe, tmp_path / "run", Options(workers=0))
    rows = _log(tmp_path / "run")
    first = [float(row["validation_loss"]) for row in rows if row["stage"] == "1"]
    then = float(rows[-1]["validation_loss"])
    assert min(first) < first[-1]
    assert then == pytest.approx(min(first) if kept == "best" else first[-1], rel=1e-4)
    assert len(first) == first.index(min(first)) + 3


def test_best_weights_survive_a_stop(example_corpus: Path, tmp_path: Path) -> None:
    stage = {"seconds": 0.5, "batch_size": 2, "steps": 6, "validate_every": 1, "learning_rate": 5.0}
    recipe = _recipe(example_corpus, stages=[stage | {"stop_after": 2}], seed=3)
    train(recipe, tmp_path / "whole", Options(workers=0))
    steps = len(_log(tmp_path / "whole"))
    train(recipe, tmp_path / "parts", Options(workers=0, minutes=0.0))
    for _ in range(steps - 2):
        train(recipe, tmp_path / "parts", Options(workers=0, minutes=0.0, resume=True))
    train(recipe, tmp_path / "parts", Options(workers=0, resume=True))
    torch.testing.assert_close(_weights(tmp_path / "parts"), _weights(tmp_path / "whole"))
    losses = [float(row["validation_loss"]) for row in _log(tmp_path / "whole")]
    assert min(losses) < losses[-1]


def test_the_exponential_schedule_and_early_stopping_follow_the_recipe() -> None:
    def stage(**changes: object) -> Stage:
        return Stage.model_validate({"seconds": 1.0, "steps": 9000, "learning_rate": 1e-3} | changes)

    falling = stage(schedule="exponential", decay_factor=0.95, decay_steps=2000)
    for step, power in ((0, 0), (1999, 0), (2000, 1), (5999, 2), (6000, 3)):
        assert learning_rate(falling, Progress(step=step)) == pytest.approx(1e-3 * 0.95**power)
    assert (stage().patience, stage().keeps_best) == (10, True)
    assert (falling.patience, falling.keeps_best) == (None, False)
    halving = stage(schedule="halving", stop_after=30)
    assert (halving.patience, halving.keeps_best) == (30, True)
    assert not stage(hand_over="last").keeps_best


def test_statistics_come_from_as_many_minutes_as_the_recipe_says(example_corpus: Path) -> None:
    recipe = _recipe(example_corpus, statistics_minutes=2.0)
    mixer = training_mixer(recipe, None)
    system = fresh_system(recipe, mixer)
    mixtures = torch.from_numpy(np.stack([mixer.example(k, 4000).mixture for k in range(240)]))
    expected = EmbeddingSeparator(system.config)
    expected.fit(mixtures)
    torch.testing.assert_close(system.frontend.mean, expected.frontend.mean)
    torch.testing.assert_close(system.frontend.deviation, expected.frontend.deviation)


def test_a_corpus_without_validation_speakers_is_left_out_of_validation(tmp_path: Path) -> None:
    """Speakers of the splits are tones, low in one and high in the other."""
    rows = ["path,corpus,speaker,gender,split,text"]
    for corpus, split, hertz in (("a", "train", 300), ("a", "valid", 2000), ("b", "train", 400)):
        for speaker in range(2):
            name = f"{corpus}-{split}-{speaker}"
            tone = 0.1 * np.sin(2 * np.pi * (hertz + 10 * speaker) * np.arange(8000) / 8000)
            write_audio(tmp_path / f"{name}.wav", tone.astype(np.float32), 8000)
            rows.append(f"{name}.wav,{corpus},{name},F,{split},")
    (tmp_path / "speech.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    mixing = {"speakers": 2, "corpus_weights": {"a": 0.5, "b": 0.5}}
    recipe = _recipe(tmp_path / "speech.csv", mixing=mixing)
    highest = []
    for mixer in (training_mixer(recipe, None), validation_mixer(recipe, None)):
        peaks = [np.abs(np.fft.rfft(mixer.example(k, 4000).mixture)).argmax() * 2 for k in range(10)]
        highest.append((min(peaks), max(peaks)))
    assert highest[0][1] < 600
    assert highest[1][0] > 1500
