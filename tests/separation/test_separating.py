from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import unmingle
from conftest import MIXTURE, tiny_system
from unmingle.audio import Samples, resample
from unmingle.audio_blocks import AudioWriter
from unmingle.errors import UnmingleError
from unmingle.file_batches import Output, distinct_stems, find_inputs
from unmingle.models import DEFAULT_MODEL, ModelFacts, find_model, save_system
from unmingle.separation import load, separate_files
from unmingle.separation.adding_up import add_residual, residual_gains
from unmingle.separation.order import order_of_speaking
from unmingle.separation.recording import RecordingSeparation


@pytest.mark.parametrize("rate", [6000, 8000, 16000, 22050, 44100])
def test_estimates_add_up_to_the_mixture_at_any_rate(
    tiny_model: Path, example_sources: Samples, rate: int
) -> None:
    mixture = resample(example_sources.sum(axis=0)[:48000], 16000, rate)
    estimates = load(tiny_model).separate(mixture, rate).estimates
    assert estimates.shape == (2, len(mixture))
    np.testing.assert_allclose(estimates.sum(axis=0), mixture, atol=1e-4)


def test_level_is_kept_and_the_input_is_untouched(tiny_model: Path, example_sources: Samples) -> None:
    model = load(tiny_model)
    mixture = example_sources.sum(axis=0)[:32000]
    copy = mixture.copy()
    quiet, loud = (model.separate(gain * mixture, 16000).estimates for gain in (0.01, 1.0))
    np.testing.assert_allclose(quiet, 0.01 * loud, atol=1e-5)
    for gain in (1e-8, 1e9):  # Floats at any scale, 32-bit integers among them.
        np.testing.assert_allclose(model.separate(gain * mixture, 16000).estimates / gain, loud, atol=1e-3)
    np.testing.assert_array_equal(mixture, copy)


def test_torch_in_torch_out_integers_and_batches(tiny_model: Path) -> None:
    model = load(tiny_model)
    mixture = (0.1 * np.random.default_rng(0).standard_normal(8000)).astype(np.float32)
    expected = model.separate(mixture, 8000).estimates
    as_tensor = model.separate(torch.from_numpy(mixture), 8000).estimates
    assert isinstance(as_tensor, torch.Tensor)
    np.testing.assert_array_equal(as_tensor.numpy(), expected)
    shares: list[float] = []
    batch = model.separate(np.stack([mixture, 0 * mixture]), 8000, on_progress=shares.append).estimates
    assert shares == sorted(shares)
    assert {0.5, 1.0} <= set(shares)
    assert batch.shape == (2, 2, 8000)
    np.testing.assert_array_equal(batch[0], expected)
    assert not batch[1].any()
    integers = model.separate(np.round(mixture * 32768).astype(np.int16), 8000).estimates
    np.testing.assert_allclose(integers, expected, atol=2e-3)


@settings(max_examples=30, deadline=None)
@given(samples=st.integers(1, 3000), rate=st.sampled_from([1000, 8000, 11025, 48000]))
def test_any_length_works(tiny_model: Path, samples: int, rate: int) -> None:
    mixture = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    estimates = load(tiny_model).separate(mixture, rate).estimates
    np.testing.assert_allclose(estimates.sum(axis=0), mixture, atol=1e-3)


@pytest.mark.parametrize(
    ("audio", "rate", "word"),
    [
        (np.zeros(0, dtype=np.float32), 8000, "at least one sample"),
        (np.zeros((2, 2, 2), dtype=np.float32), 8000, "samples"),
        (np.zeros((8000, 2), dtype=np.float32), 8000, "looks like"),
        (np.full(100, np.nan, dtype=np.float32), 8000, "NaN"),
        (np.zeros(100, dtype=np.float32), 100, "100 Hz"),
        (np.zeros(100, dtype=np.complex64), 8000, "complex64"),
    ],
)
def test_bad_arrays_are_refused(tiny_model: Path, audio: np.ndarray, rate: int, word: str) -> None:
    with pytest.raises(UnmingleError, match=word):
        load(tiny_model).separate(audio, rate)


@pytest.mark.parametrize("speakers", [0, -1, 9, 40])
def test_impossible_numbers_of_speakers_are_refused(tiny_model: Path, speakers: int) -> None:
    with pytest.raises(UnmingleError, match="1 to 8 speakers"):
        load(tiny_model).separate(np.zeros(100, dtype=np.float32), 8000, speakers)


@pytest.mark.parametrize("speakers", ["2", 2.0, True, "two"])
def test_a_number_of_speakers_of_another_type_is_refused(tiny_model: Path, speakers: object) -> None:
    with pytest.raises(UnmingleError, match="whole number"):
        load(tiny_model).separate(np.zeros(100, dtype=np.float32), 8000, speakers)  # type: ignore[call-overload]
    with pytest.raises(UnmingleError, match="number of speakers"):
        load(tiny_model).stream(8000, speakers)  # type: ignore[arg-type]


def test_speaker_one_speaks_first() -> None:
    late, early = np.zeros((2, 16000), dtype=np.float32)
    late[9000:12000], early[2000:6000] = 0.5, 0.1
    leak = 0.02 * early + late

    def power(*estimates: Samples) -> Samples:
        return np.square(np.stack(estimates)).reshape(2, -1, 80).sum(axis=2)

    assert order_of_speaking(power(leak, early), 0.01).tolist() == [1, 0]
    assert order_of_speaking(power(early, leak), 0.01).tolist() == [0, 1]
    assert order_of_speaking(np.zeros((2, 100), dtype=np.float32), 0.01).tolist() == [0, 1]


def test_what_the_estimates_leave_goes_to_the_speaker_of_that_moment() -> None:
    power = np.zeros((2, 100), dtype=np.float32)
    power[0, :50], power[1, 50:] = np.random.default_rng(0).uniform(0.5, 1.0, (2, 50))
    gains = residual_gains(power, 0.016)
    np.testing.assert_allclose(gains.sum(axis=0), 1, atol=1e-5)
    mixture = np.ones(16000, dtype=np.float32)
    estimates = np.full((2, 16000), 0.25, dtype=np.float32)
    shared = add_residual(mixture, estimates, gains, 0.0, 100 / 16000)
    # Half of the mixture is left over.
    np.testing.assert_allclose(shared[0, :7000], 0.75, atol=1e-4)
    np.testing.assert_allclose(shared[1, 9000:], 0.75, atol=1e-4)
    np.testing.assert_allclose(shared.sum(axis=0), mixture, atol=1e-5)
    # Frames may begin anywhere in the recording.
    later = add_residual(mixture[9000:], estimates[:, 9000:], gains, 9000 * 100 / 16000, 100 / 16000)
    np.testing.assert_allclose(later, shared[:, 9000:], atol=1e-5)


def test_outputs_have_the_rate_and_length_of_the_input(tiny_model: Path, tmp_path: Path) -> None:
    stereo = tmp_path / "ü ber -44.wav"
    noise = 0.1 * np.random.default_rng(0).standard_normal((44100, 2))
    soundfile.write(stereo, noise, 44100, subtype="PCM_24")
    (result,) = separate_files([stereo], load(tiny_model), Output(tmp_path / "out"))
    assert result.error is None
    outputs = [soundfile.read(path)[0] for path in result.outputs]
    assert {soundfile.info(path).samplerate for path in result.outputs} == {44100}
    np.testing.assert_allclose(sum(outputs), soundfile.read(stereo)[0].mean(axis=1), atol=1e-4)


@pytest.mark.parametrize("format", ["flac", "ogg", "mp3"])
def test_one_common_gain_keeps_other_formats_from_clipping(
    tiny_model: Path, tmp_path: Path, format: str
) -> None:
    loud = tmp_path / "loud.wav"
    samples = 4 * np.random.default_rng(0).standard_normal(16000)
    soundfile.write(loud, samples, 16000, subtype="FLOAT")
    (result,) = separate_files([loud], load(tiny_model), Output(tmp_path / "out", format=format))
    assert result.gain_db < -3
    estimates = [soundfile.read(path)[0] for path in result.outputs]
    if format == "flac":
        np.testing.assert_allclose(sum(estimates), samples * 10 ** (result.gain_db / 20), atol=1e-4)
    (plain,) = separate_files([loud], load(tiny_model), Output(tmp_path / "float"))
    assert plain.gain_db == 0


def test_inputs_of_one_name_never_overwrite_each_other(tiny_model: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a/x.wav", "b/x.wav", "b/x.flac", "b/X.wav")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.full(800, 0.1), 8000)
    results = separate_files(paths, load(tiny_model), Output(tmp_path / "out"))
    outputs = [output for result in results for output in result.outputs]
    assert len({output.casefold() for output in outputs}) == 8
    assert all(Path(output).is_file() for output in outputs)


@given(st.lists(st.sampled_from(["a.wav", "a.flac", "a-2.wav", "A.mp3", "b.wav"]), max_size=8))
def test_stems_are_distinct(names: list[str]) -> None:
    stems = distinct_stems([Path(name) for name in names])
    assert len({stem.casefold() for stem in stems}) == len(names)


def test_existing_outputs_stay_unless_told_otherwise(tiny_model: Path, tmp_path: Path) -> None:
    source = tmp_path / "x.wav"
    soundfile.write(source, np.full(800, 0.1), 8000)
    output = tmp_path / "out"
    output.mkdir()
    (output / "x_speaker2.wav").write_text("precious")
    (refused,) = separate_files([source], load(tiny_model), Output(output))
    assert refused.error is not None
    assert "--overwrite" in refused.error
    assert [path.name for path in output.iterdir()] == ["x_speaker2.wav"]
    assert (output / "x_speaker2.wav").read_text() == "precious"
    (done,) = separate_files([source], load(tiny_model), Output(output, overwrite=True))
    assert done.error is None
    assert soundfile.info(output / "x_speaker2.wav").frames == 800


@pytest.mark.parametrize(
    "name", ["{stem}", "speaker{n}", "{stem}_{m}", "{stem", "../{stem}_{n}", "{stem.x}_{n}"]
)
def test_bad_name_templates_are_refused(tiny_model: Path, tmp_path: Path, name: str) -> None:
    # The stem "t" stands in every "speaker": the template itself must name it.
    soundfile.write(tmp_path / "t.wav", np.full(800, 0.1), 8000)
    try:
        (result,) = separate_files(
            [tmp_path / "t.wav"], load(tiny_model), Output(tmp_path / "out", name=name)
        )
        message = str(result.error)
    except UnmingleError as error:
        message = str(error)
    assert message.startswith("The name")
    assert not (tmp_path / "out").exists()


def test_an_output_never_replaces_an_input(tiny_model: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "x.wav", tmp_path / "x_speaker1.wav"]
    for path in paths:
        soundfile.write(path, np.full(800, 0.1), 8000)
    before = paths[1].read_bytes()
    refused, done = separate_files(paths, load(tiny_model), Output(tmp_path, overwrite=True))
    assert refused.error is not None
    assert "is an input" in refused.error
    assert done.error is None
    assert paths[1].read_bytes() == before


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_stop_between_two_speakers_leaves_all_as_it_was(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    soundfile.write(tmp_path / "x.wav", np.full(800, 0.1), 8000)
    (tmp_path / "out").mkdir()
    for number in (1, 2):
        (tmp_path / "out" / f"x_speaker{number}.wav").write_text(f"old {number}")
    closed = []
    close = AudioWriter.close

    def stop_at_the_second(self: AudioWriter) -> None:
        closed.append(self)
        if len(closed) == 2:
            raise stop
        close(self)

    monkeypatch.setattr(AudioWriter, "close", stop_at_the_second)
    output = Output(tmp_path / "out", overwrite=True)
    if isinstance(stop, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            separate_files([tmp_path / "x.wav"], load(tiny_model), output)
    else:
        (result,) = separate_files([tmp_path / "x.wav"], load(tiny_model), output)
        assert result.error is not None
        assert "no space left" in result.error.lower()
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {
        "x_speaker1.wav": "old 1",
        "x_speaker2.wav": "old 2",
    }


def test_files_of_a_run_with_more_speakers_stay_with_a_warning(tiny_model: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.full(800, 0.1), 8000)
    paths, folder = [tmp_path / "x.wav"], tmp_path / "out"
    separate_files(paths, load(tiny_model), Output(folder), speakers=3)
    (folder / "x_speaker9.wav").write_text("not of a run")
    (result,) = separate_files(paths, load(tiny_model), Output(folder, overwrite=True), speakers=2)
    assert len(list(folder.iterdir())) == 4
    warnings = [text for text in result.warnings if "is not of this run" in text]
    assert len(warnings) == 1
    assert "x_speaker3.wav" in warnings[0]
    # An input is no result, whatever its name.
    inputs = [*paths, folder / "x_speaker3.wav"]
    first, _ = separate_files(inputs, load(tiny_model), Output(folder, overwrite=True), speakers=2)
    assert not any("not of this run" in text for text in first.warnings)


def test_files_that_clip_are_never_in_place(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peak is known after all is written. A stop then must not leave clipped files."""
    estimates, passes = RecordingSeparation.estimates, []

    def too_loud(self: RecordingSeparation, blocks: Iterable[Samples]) -> Iterator[Samples]:
        passes.append(sorted(path.name for path in (tmp_path / "out").glob("*.flac")))
        if len(passes) == 2:
            raise KeyboardInterrupt
        return (4 * block for block in estimates(self, blocks))

    monkeypatch.setattr(RecordingSeparation, "estimates", too_loud)
    soundfile.write(tmp_path / "x.wav", np.full(800, 0.9), 8000)
    with pytest.raises(KeyboardInterrupt):
        separate_files([tmp_path / "x.wav"], load(tiny_model), Output(tmp_path / "out", "flac"))
    assert passes == [[], []]
    assert not list((tmp_path / "out").glob("*.flac"))


def test_folders_and_globs_are_found(tmp_path: Path) -> None:
    for name in ("a/1.wav", "a/b/2.MP3", "a/.hidden.wav", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    both = [tmp_path / "a" / "1.wav", tmp_path / "a" / "b" / "2.MP3"]
    assert find_inputs([str(tmp_path / "a")]) == (both, [])
    assert find_inputs([str(tmp_path / "a" / "*.wav")]) == (both[:1], [])
    assert find_inputs([str(tmp_path / "a*")]) == (both, [])
    (tmp_path / "empty").mkdir()
    found, problems = find_inputs([str(tmp_path / "empty"), str(tmp_path / "a"), str(tmp_path / "*.nothing")])
    assert found == both
    assert ["no audio" in str(problems[0].error), "No file" in str(problems[1].error)] == [True, True]


def test_the_shipped_model_separates_the_shipped_mixture(example_sources: Samples) -> None:
    """The main job, on real audio, with the model in the package."""
    from unmingle.metrics import si_sdr
    from unmingle.permutation import best_permutation, pairwise_si_sdr

    separated = unmingle.separate(MIXTURE)
    assert separated.sample_rate == 16000
    references = torch.from_numpy(example_sources).unsqueeze(0)
    score, order = best_permutation(
        pairwise_si_sdr(torch.from_numpy(separated.estimates).unsqueeze(0), references)
    )
    start = si_sdr(references.sum(dim=1, keepdim=True), references).mean()
    assert float(score - start) > 3.0
    assert order.tolist() == [[0, 1]], "the reader begins, so the reader is speaker 1"


def test_the_default_model_counts_and_others_do_not_unless_trained_to(
    example_sources: Samples, tiny_model: Path, tmp_path: Path
) -> None:
    assert unmingle.load().counts
    assert load(shutil.copy(find_model(DEFAULT_MODEL), tmp_path / "copy.safetensors")).counts
    assert not unmingle.load("adanet-2speakers-8khz").counts
    for voice in example_sources:
        alone = unmingle.load().separate(voice, 16000)
        assert len(alone.estimates) == 1
        assert alone.confidence < 1
    given = unmingle.load().separate(example_sources[0], 16000, speakers=2)
    assert len(given.estimates) == 2
    assert given.confidence == 1
    assert not load(tiny_model).counts
    assert load(tiny_model).check_speakers(None) == 2
    several = tmp_path / "several.safetensors"
    save_system(tiny_system(speakers=3, fewest_speakers=1), several, ModelFacts(task="separate"))
    assert load(several).counts
    assert load(several).check_speakers(None) is None
    save_system(tiny_system(speakers=3, fewest_speakers=3), several, ModelFacts(task="separate"))
    assert load(several).check_speakers(None) == 3


def test_every_estimate_is_denoised_when_asked(run, tiny_model: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "noisy.wav", 0.1 * rng.standard_normal(30000), 16000)
    for arguments in (["-o", "plain"], ["-o", "cleaned", "--denoise"]):
        done = run("separate", tmp_path / "noisy.wav", *arguments, "--model", tiny_model)
        assert done.code == 0, done.err
    for name in ("noisy_speaker1.wav", "noisy_speaker2.wav"):
        plain, cleaned = (
            soundfile.read(f"{folder}/{name}", dtype="float32")[0] for folder in ("plain", "cleaned")
        )
        expected = unmingle.load_denoiser().denoise(plain, 16000)
        np.testing.assert_allclose(cleaned, expected, atol=1e-3)
        # White noise is what the denoiser removes.
        assert np.square(cleaned).mean() < 0.05 * np.square(plain).mean()
