"""Batches of files: one bad file never stops the others, and subfolders are kept."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from test_audio_reading import KINDS
from unmingle.denoising import denoise_files, load_denoiser
from unmingle.errors import UnmingleError
from unmingle.file_batches import Output, check_output, distinct_stems, find_inputs, find_roots, process_files


@dataclass
class _Result:
    seconds: float = 0.0
    real_time_factor: float = 0.0
    error: str | None = None


@pytest.mark.parametrize("error", KINDS, ids=lambda error: type(error).__name__)
def test_an_error_in_one_file_does_not_stop_the_others(error: Exception) -> None:
    done = []

    def work(path: Path, stem: str, result: _Result) -> None:
        if stem == "b":
            raise error
        done.append(stem)

    results = [_Result() for _ in range(3)]
    reported: list[_Result] = []
    process_files([Path(f"{name}.wav") for name in "abc"], results, work, "cleaned", reported.append)
    assert done == ["a", "c"]
    assert reported == results
    assert [result.error is None for result in results] == [True, False, True]
    assert str(results[1].error).startswith("b.wav could not be cleaned (")
    assert "\n" not in str(results[1].error)


def test_an_interrupt_is_not_an_error_of_a_file() -> None:
    def work(path: Path, stem: str, result: _Result) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process_files([Path("a.wav")], [_Result()], work, "cleaned", None)


def _sound(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(4000)), 8000)
    return path


def test_the_folders_of_inputs_are_kept(tmp_path: Path, tiny_denoiser: Path) -> None:
    for name in ("monday/talk.wav", "tuesday/talk.wav", "talk.wav"):
        _sound(tmp_path / "in" / name)
    names = [str(tmp_path / "in")]
    paths, problems = find_inputs(names)
    assert not problems
    output = Output(tmp_path / "out", name="{stem}_clean", roots=find_roots(names))
    results = denoise_files(paths, load_denoiser(tiny_denoiser), output)
    assert [result.error for result in results] == [None] * 3
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.wav")}
    assert found == {"monday/talk_clean.wav", "tuesday/talk_clean.wav", "talk_clean.wav"}
    named = [Path("a/talk.wav"), Path("b/talk.wav")]
    assert distinct_stems(named) == ["talk", "talk-2"]


def test_outputs_inside_an_input_folder_are_not_inputs(tmp_path: Path) -> None:
    talk, output = _sound(tmp_path / "in" / "talk.wav"), tmp_path / "in" / "denoised"
    result = _sound(output / "monday" / "talk_denoised.wav")
    for name in (tmp_path / "in", tmp_path / "in" / "*", tmp_path / "in*"):
        assert find_inputs([str(name)], output)[0] == [talk]
    # A folder or file that is named is an input.
    assert find_inputs([str(output)], output)[0] == [result]
    assert find_inputs([str(output / "monday" / "*.wav")], output)[0] == [result]
    assert find_inputs([str(result)], output)[0] == [result]
    assert find_inputs([str(tmp_path / "in")], tmp_path / "in")[0] == [result, talk]


def test_an_empty_name_is_not_the_current_folder(tmp_path: Path) -> None:
    _sound(tmp_path / "a.wav")
    paths, problems = find_inputs(["", "a.wav"])
    assert paths == [Path("a.wav")]
    assert "variable unset" in problems[0].error


def test_files_with_non_utf8_names_are_processed(tmp_path: Path, tiny_denoiser: Path) -> None:
    _sound(tmp_path / "in" / "good.wav").rename(tmp_path / "in" / os.fsdecode(b"caf\xe9.wav"))
    _sound(tmp_path / "in" / "good.wav")
    paths, _ = find_inputs([str(tmp_path / "in")])
    results = denoise_files(paths, load_denoiser(tiny_denoiser), Output(tmp_path / "out", name="{stem}"))
    assert [result.error for result in results] == [None, None]
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize(
    ("output", "word"),
    [(Output(Path("/dev/null")), "cannot be written"), (Output(Path("/proc/x")), "cannot be written"),
     (Output(format="xyz"), "Cannot write"), (Output(name="{stem}"), "needs")],
)  # fmt: skip
def test_wrong_output_settings_are_found_before_the_work(output: Output, word: str) -> None:
    with pytest.raises(UnmingleError, match=word):
        check_output(output, 2)
