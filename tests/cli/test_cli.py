"""The commands as a user types them, in a process of their own or in this one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from conftest import EXAMPLES, MIXTURE, Result
from unmingle.cli.tables import times_real_time
from unmingle.errors import UnmingleError
from unmingle.file_batches import check_template


def _refused(result: Result, word: str) -> None:
    assert result.code == 2, result.err
    assert word in result.err
    assert "Traceback" not in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_separate_as_a_program_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unmingle", "separate", str(MIXTURE), "--model", str(tiny_model), "-o", "out"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    paths = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in paths] == [f"reader_and_commands_speaker{n}.wav" for n in (1, 2)]
    estimates = [soundfile.read(path)[0] for path in paths]
    np.testing.assert_allclose(sum(estimates), soundfile.read(MIXTURE)[0], atol=1e-4)
    assert "reader_and_commands_speaker1.wav" in done.stdout
    assert done.stderr == ""


def test_json_is_only_json(run, tiny_model: Path) -> None:  # type: ignore[no-untyped-def]
    result = run("separate", MIXTURE, "--model", tiny_model, "--json", "--threads", 1)
    (entry,) = json.loads(result.out)["files"]
    assert len(entry["outputs"]) == 2
    assert entry["seconds"] == pytest.approx(7.1, abs=0.05)
    assert entry["real_time_factor"] > 0


def test_good_files_are_done_and_the_code_tells_of_the_bad_ones(
    run, tiny_model: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "text.wav").write_text("no sound")
    result = run("separate", tmp_path / "text.wav", MIXTURE, tmp_path / "none.wav", "--model", tiny_model)
    assert result.code == 2
    assert len(list((tmp_path / "separated").iterdir())) == 2
    lines = result.err.strip().splitlines()
    assert len(lines) == 3
    assert "text.wav" in lines[0]
    assert "none.wav" in lines[1]
    assert "2 of 3 files" in lines[2]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["missing.wav"], "does not exist"),
        (["*.nothing"], "No file matches"),
        (["empty"], "no audio"),
        (["text.wav"], "cannot be read as audio"),
        ([str(MIXTURE), "--speakers", "0"], "1 to 8 speakers"),
        ([str(MIXTURE), "--speakers", "40"], "1 to 8 speakers"),
        ([str(MIXTURE), "--channel", "right"], "no channel right"),
        ([str(MIXTURE), "--channel", "centre"], "no channel 'centre'"),
        ([str(MIXTURE), "--format", "aiff"], "Cannot write 'aiff'"),
        ([str(MIXTURE), "--format", "flac", "--bits", "32"], "32 bits"),
        ([str(MIXTURE), "--threads", "0"], "--threads"),
        ([str(MIXTURE), "--device", "toaster"], "toaster"),
        ([str(MIXTURE), "--name", "{stem}"], "needs {stem} and {n}"),
        ([str(MIXTURE), "-o", "text.wav"], "cannot be written"),
    ],
)
def test_every_mistake_is_one_sentence_and_leaves_nothing(  # type: ignore[no-untyped-def]
    run, tiny_model: Path, tmp_path: Path, arguments: list[str], word: str
) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "empty").mkdir()
    _refused(run("separate", *arguments, "--model", tiny_model), word)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["empty", "text.wav"]


def test_unknown_and_damaged_models_are_refused(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "damaged.safetensors").write_bytes(b"\xff" * 100)
    _refused(run("separate", MIXTURE, "--model", "nonsense"), "no model 'nonsense'")
    _refused(run("separate", MIXTURE, "--model", tmp_path / "damaged.safetensors"), "damaged")
    _refused(run("models", "show", "nonsense"), "no model 'nonsense'")


def test_ctrl_c_is_told_in_one_sentence(  # type: ignore[no-untyped-def]
    run, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unmingle.separation.separate_files", interrupted)
    result = run("separate", MIXTURE, "--model", tiny_model)
    assert result.code == 130
    assert result.err.strip() == "unmingle: interrupted; no incomplete file is left as a result."


def _write(path: Path, samples: np.ndarray, rate: int = 16000, **how: str) -> Path:
    soundfile.write(path, samples, rate, **how)
    return path


def test_unusual_files_are_no_errors(run, tiny_model: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    noise = 0.1 * np.random.default_rng(0).standard_normal((8000, 30))
    paths = [
        _write(tmp_path / "silence.wav", np.zeros(8000)),
        _write(tmp_path / "thirty channels.wav", noise),
        _write(tmp_path / "short.wav", noise[:800, 0]),
        _write(tmp_path / "eight.wav", noise[:, 0], subtype="PCM_U8"),
        _write(tmp_path / "double.wav", noise[:, 0], subtype="DOUBLE"),
        _write(tmp_path / "naïve – übung.flac", noise[:, 0]),
        _write(tmp_path / "-dash.wav", noise[:, 0]),
    ]
    whole = paths[3].read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    names = [path.name for path in paths] + ["cut.wav"]
    result = run("separate", "--model", tiny_model, "--json", "--channel", "mix", "-o", "out", "--", *names)
    assert result.code == 0, result.err
    files = {entry["input"]: entry for entry in json.loads(result.out)["files"]}
    assert "ends early" in files["cut.wav"]["warnings"][0]
    for path in paths:
        outputs = [soundfile.read(output)[0] for output in files[path.name]["outputs"]]
        mixture = soundfile.read(path, always_2d=True)[0].mean(axis=1)
        np.testing.assert_allclose(sum(outputs), mixture, atol=1e-4)
    assert not any(soundfile.read(output)[0].any() for output in files["silence.wav"]["outputs"])


def test_mix_then_evaluate(run, example_corpus: Path, tiny_model: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    made = run(
        "mix", example_corpus, "-o", "test", "--count", 2, "--seed", 1, "--split", "test", "--snr", 0, 5
    )
    assert made.code == 0, made.err
    assert sorted(path.name for path in (tmp_path / "test").iterdir()) == [
        "README.md",
        "mix",
        "mixtures.csv",
        "recipe.json",
        "s1",
        "s2",
    ]
    scored = run("evaluate", "test", "--model", tiny_model, "-o", "scores", "--json")
    assert scored.code == 0, scored.err
    assert json.loads(scored.out)["mixing"]["seed"] == 1
    table = run("evaluate", "test", "--oracle", "ibm", "-o", "oracle")
    assert "SI-SDR (dB)" in table.out
    _refused(run("mix", example_corpus, "-o", "test"), "not empty")
    _refused(run("mix", example_corpus, "-o", "more", "--mode", "middle"), "--mode")
    _refused(run("mix", example_corpus, "-o", "more", "--snr", 5, 0), "snr")
    _refused(run("mix", example_corpus, "-o", "more", "--seed", -1), "--seed")
    assert not (tmp_path / "more").exists()
    _refused(run("mix", example_corpus, "-o", "more", "--count", 0), "count")
    _refused(run("mix", tmp_path / "none", "-o", "more"), "does not exist")
    _refused(run("mix", example_corpus, "-o", "more", "--list", "a.txt", "--seed", 1), "--seed does not go")
    _refused(
        run("mix", example_corpus, "-o", "more", "--overlap", 0, 1, "--mode", "max"),
        "--mode cannot be combined",
    )
    _refused(run("mix", example_corpus, "-o", "more", "--rt60", 0.2, 0.4), "--rt60 needs --room")
    _refused(run("evaluate", "test", "--mixture", "--oracle", "ibm"), "exclude each other")
    _refused(run("evaluate", "nowhere"), "does not exist")


def test_speakers_are_counted_when_asked(run, tiny_model: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = run("separate", MIXTURE, "--model", tiny_model, "--speakers", "auto", "--json")
    assert done.code == 0, done.err
    (told,) = json.loads(done.out)["files"]
    assert told["speakers"] == len(told["outputs"]) == len(list((tmp_path / "separated").iterdir()))
    assert 0 < told["confidence"] < 1
    done = run("separate", MIXTURE, "--model", tiny_model, "--speakers", "auto", "--overwrite")
    assert done.code == 0, done.err
    assert len(list((tmp_path / "separated").iterdir())) == told["speakers"]
    _refused(run("separate", MIXTURE, "--model", tiny_model, "--speakers", "two"), "number or auto")
    _refused(run("separate", MIXTURE, "--model", tiny_model, "--speakers", "9"), "1 to 8 speakers")


def test_a_stream_refuses_what_has_no_effect(run, tiny_model: Path) -> None:  # type: ignore[no-untyped-def]
    pipe = ("separate", "-", "-", "--raw", "s16le:8000", "--model", tiny_model)
    for option in (
        ("--shard", "1/2"),
        ("--timeline", "who.json"),
        ("--channel", "left"),
        ("--json",),
        ("--denoise",),
        ("--listen", "1"),
        ("-o", "out"),
    ):
        _refused(run(*pipe, *option), "does not go with --raw")
    _refused(run("separate", "--live", "--track", "2"), "--track does not go with --live")
    _refused(run("separate", MIXTURE, "--lag", "1"), "--lag")
    _refused(run("denoise", "--live", "--json"), "--json does not go with --live")
    _refused(run("denoise", "-", "-", "--shard", "1/2"), "--shard does not go with a pipe")
    _refused(run("denoise", "-", "-", "--raw", "s16le:8000", "--format", "flac"), "--format")


def test_a_timeline_is_kept_and_is_not_written_without_recordings(
    run, tiny_model: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "who.json").write_text("mine")
    arguments = ("--model", tiny_model, "--timeline")
    _refused(run("separate", MIXTURE, *arguments, "who.json"), "--overwrite")
    assert (tmp_path / "who.json").read_text() == "mine"
    assert not (tmp_path / "separated").exists()
    (tmp_path / "broken.wav").write_text("no audio")
    _refused(run("separate", "broken.wav", *arguments, "who.png"), "broken.wav")
    assert not (tmp_path / "who.png").exists()
    assert run("separate", MIXTURE, *arguments, "who.json", "--overwrite").code == 0
    assert json.loads((tmp_path / "who.json").read_text())[0]["speech"] is not None


def test_settings_are_changed_for_a_score(run, tiny_model: Path, example_corpus: Path) -> None:  # type: ignore[no-untyped-def]
    assert run("mix", example_corpus, "--split", "test", "--count", "2", "-o", "test").code == 0
    arguments = ("evaluate", "test", "--model", tiny_model, "--json", "--set")
    ideal = run(*arguments, "formation=oracle", "-o", "a")
    assert ideal.code == 0, ideal.err
    summary = json.loads(ideal.out)
    assert summary["changes"] == {"formation": "oracle"}
    assert summary["system"] == "tiny-formation-oracle"
    assert run(*arguments, "weight.threshold=0.5", "--set", "formation=kmeans", "-o", "b").code == 0
    _refused(run(*arguments, "formation=magic"), "cannot have")
    _refused(run(*arguments, "formation"), "KEY=VALUE")
    _refused(run("evaluate", "test", "--oracle", "ibm", "--set", "a=b"), "--model alone")


def test_fix_attractors_from_the_command_line(run, tiny_model: Path, example_corpus: Path) -> None:  # type: ignore[no-untyped-def]
    arguments = ("fix-attractors", tiny_model, "--data", example_corpus, "--mixtures", "4")
    done = run(*arguments, "-o", "fixed.safetensors")
    assert done.code == 0, done.err
    assert run("separate", MIXTURE, "--model", "fixed.safetensors").code == 0
    _refused(run(*arguments, "-o", "fixed.safetensors"), "--overwrite")


def test_train_from_the_command_line(run, example_corpus: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text("name: tiny\nsystem: {kind: embedding_separator}\nstages: [{seconds: 1, steps: 9}]\n")
    done = run("train", recipe, "--data", example_corpus, "--smoke")
    assert done.code == 0, done.err
    assert (tmp_path / "runs" / "tiny-smoke" / "best.safetensors").is_file()
    _refused(run("train", recipe), "--data")
    _refused(run("train", tmp_path / "none.yaml", "--data", example_corpus), "does not exist")
    _refused(run("train", recipe, "--data", tmp_path / "none", "-o", "other"), "does not exist")


def test_help_and_version(run) -> None:  # type: ignore[no-untyped-def]
    assert "unmingle separate meeting.wav" in run("--help").out
    for command in ("separate", "models", "mix", "evaluate", "train"):
        page = run(command, "--help")
        assert page.code == 0
        assert "Usage" in page.out
    assert run("--version").out.startswith("unmingle 0")


def test_models_are_listed_with_their_cards(run) -> None:  # type: ignore[no-untyped-def]
    listed = json.loads(run("models", "--json").out)
    assert listed
    for model in listed:
        assert {
            "name",
            "task",
            "rate",
            "speakers",
            "parameters",
            "arithmetic",
            "data",
            "score",
            "licence",
        } <= set(model)
        assert model["name"] in run("models", "show", model["name"]).out
    assert listed[0]["name"] in run("models").out


def test_examples_folder_scores_as_it_is(run) -> None:  # type: ignore[no-untyped-def]
    assert run("evaluate", EXAMPLES / "two_speakers", "--mixture", "-o", "scores").code == 0


def test_an_empty_argument_is_no_folder(run, tiny_model: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    shutil.copy(MIXTURE, tmp_path)
    for command in (["separate", ""], ["mix", "", "-o", "x"], ["separate", "a.wav", "-o", ""]):
        result = run(*command)
        assert result.code == 2
        assert "variable unset" in result.err
    assert not (tmp_path / "separated").exists()


def test_the_output_is_found_unwritable_before_the_model_is_loaded(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").write_text("x")
    for command in ("separate", "denoise"):
        result = run(command, MIXTURE, "-o", tmp_path / "file" / "out", "--model", "there-is-no-such-model")
        assert result.code == 2
        assert "cannot be written" in result.err


def _unmingle(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "unmingle", *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_closed_or_narrow_stdout(tmp_path: Path, tiny_denoiser: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = _unmingle("models", stdout=full)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"no space left" in done.stderr
    shutil.copy(MIXTURE, tmp_path / "日本.flac")
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    with (tmp_path / "log").open("wb") as log:
        done = _unmingle("denoise", "日本.flac", "--model", str(tiny_denoiser), stdout=log, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"u65e5" in (tmp_path / "log").read_bytes()
    assert [path.name for path in (tmp_path / "denoised").iterdir()] == ["日本_denoised.wav"]


def test_stdin_and_stdout_as_files(tmp_path: Path, tiny_denoiser: Path, tiny_model: Path) -> None:
    with MIXTURE.open("rb") as given, (tmp_path / "y.wav").open("wb") as out:
        done = _unmingle("denoise", "-", "-", "--model", str(tiny_denoiser), stdin=given, stdout=out)
    assert (done.returncode, done.stderr) == (0, b"")
    assert soundfile.info(tmp_path / "y.wav").frames == soundfile.info(MIXTURE).frames
    with MIXTURE.open("rb") as given:
        command = ("separate", "-", "-o", "out", "--model", str(tiny_model))
        done = _unmingle(*command, stdin=given, stdout=subprocess.PIPE)
    assert done.returncode == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "stdin_speaker1.wav",
        "stdin_speaker2.wav",
    ]
    with (tmp_path / "no.txt").open("w+b") as given:
        given.write(b"no sound")
        given.seek(0)
        done = _unmingle(*command, "--json", "--overwrite", stdin=given, stdout=subprocess.PIPE)
    (told,) = json.loads(done.stdout)["files"]
    assert told["input"] == "stdin"
    assert told["error"].startswith("The audio from stdin")


@pytest.mark.parametrize("name", ["who.png", "who.rttm", "nowhere/no/who.json"])
def test_a_timeline_that_cannot_be_written_loses_no_result(  # type: ignore[no-untyped-def]
    run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from unmingle.separation import timeline

    monkeypatch.setattr(timeline, "replace_files", _full)
    done = run("separate", MIXTURE, "--model", tiny_model, "--timeline", tmp_path / name)
    assert done.code == 2
    assert "no space left" in done.err.lower()
    assert "speaker1" in done.out  # The table is there.


def _full(_: object) -> None:
    raise UnmingleError("No space left.")


def test_a_mistake_of_ours_is_one_sentence_and_a_traceback_with_debug(
    run,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,  # type: ignore[no-untyped-def]
) -> None:
    def broken() -> None:
        raise AttributeError("codec_context is None")

    monkeypatch.setattr("unmingle.models.model_names", broken)
    result = run("models")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "--debug" in result.err
    run("--debug", "models")
    assert "AttributeError" in caplog.text


@pytest.mark.parametrize(
    "name", ["{stem}{n}{x}", "{n!r}{stem}", "{n:999999999}{stem}", "{stem.a}{n}", "a\nb{stem}{n}", "{"]
)
def test_absurd_templates(name: str) -> None:
    with pytest.raises(UnmingleError, match="template"):
        check_template(name, 2)
    check_template("{stem}_{n:02}", 2)


@pytest.mark.parametrize(("factor", "text"), [(0.0099, "101"), (0.1, "10"), (0.4, "2.5"), (2.0, "0.5")])
def test_how_fast_it_was(factor: float, text: str) -> None:
    assert times_real_time(factor) == text


@pytest.mark.parametrize(
    "command", [["separate", "nowhere.wav"], ["evaluate", "nowhere"], ["denoise", "nowhere.wav"]]
)
def test_torch_is_imported_with_a_passive_wait_policy(command: list[str]) -> None:
    """PyTorch reads the variable when it is imported. Threads that spin are slow beside other programs."""
    watch = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch':\n"
        "            print('policy', os.environ.get('OMP_WAIT_POLICY'), flush=True)\n"
        "            os._exit(7)\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"sys.argv = ['unmingle', *{command!r}]\n"
        "from unmingle.cli.main import main\n"
        "main()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", watch], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 7
    assert done.stdout == "policy PASSIVE\n"
