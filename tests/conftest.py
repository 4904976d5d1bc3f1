"""Fixtures: a tiny model with random weights, the packaged audio, and a corpus made from it."""

from __future__ import annotations

import os
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import settings

from unmingle.audio import Samples
from unmingle.cli.main import main
from unmingle.models import ModelFacts, save_system
from unmingle.systems import (
    EmbeddingSeparator,
    EmbeddingSeparatorConfig,
    LocalExperts,
    LocalExpertsConfig,
)

# Time is measured by benchmarks: a busy machine fails no test.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
MIXTURE = EXAMPLES / "two_speakers" / "mix" / "reader_and_commands.flac"


TINY_BLSTM: dict[str, object] = {"kind": "blstm", "layers": 1, "hidden_size": 8}
TINY_CNN: dict[str, object] = {"kind": "dilated_cnn", "channels": 4}


TINY_LSTM: dict[str, object] = {"kind": "lstm", "layers": 2, "hidden_size": 8}
CAUSAL: dict[str, object] = {
    "stft": {"hop": 128, "level": "running"},
    "network": TINY_LSTM,
    "weight": {"rule": "near_level"},
    "training_formation": "running_anchored",
    "formation": "running_anchored",
}
"""Changes that let the tiny separator run frame by frame."""


def tiny_values(**changes: object) -> dict[str, object]:
    """The config of an embedding separator that is built and run in milliseconds."""
    values: dict[str, object] = {
        "kind": "embedding_separator",
        "stft": {"hop": 128},
        "network": TINY_BLSTM,
        "dimension": 4,
        "anchors": 4,
    }
    return values | changes


def tiny_config(**changes: object) -> EmbeddingSeparatorConfig:
    return EmbeddingSeparatorConfig.model_validate(tiny_values(**changes))


def tiny_system(**changes: object) -> EmbeddingSeparator:
    torch.manual_seed(0)
    return EmbeddingSeparator(tiny_config(**changes)).eval()


def tiny_experts(**changes: object) -> LocalExperts:
    """A sparse mixture of local experts that runs in milliseconds."""
    torch.manual_seed(0)
    tiny = {"layers": 1, "hidden_size": 8}
    values = {"network": tiny, "gate": tiny} | changes
    return LocalExperts(LocalExpertsConfig.model_validate(values)).eval()


def tiny_sound(path: Path, seconds: float = 0.5, rate: int = 8000, format: str | None = None) -> Path:
    """Write a tone to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.sin(np.arange(round(seconds * rate)) / 9)
    soundfile.write(path, samples.astype(np.float32), rate, format=format)
    return path


def write_text(path: Path, text: str) -> None:
    """Write ``text``; missing folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def tiny_librispeech(root: Path) -> Path:
    """A LibriSpeech of four speakers and ten files; two of them are of a subset of another part."""
    home = root / "LibriSpeech"
    for part, speaker, chapter in (
        ("train-clean-5", "14", "208"), ("dev-clean-2", "84", "1"), ("dev-clean", "84", "1"),
        ("dev-clean", "174", "2"), ("test-clean", "61", "3"),
    ):  # fmt: skip
        stem = f"{speaker}-{chapter}"
        folder = home / part / speaker / chapter
        for number in range(2):
            tiny_sound(folder / f"{stem}-{number:04d}.flac")
        write_text(folder / f"{stem}.trans.txt", f"{stem}-0000 IT WAS, SO\n{stem}-0001 OH\n")
    write_text(
        home / "SPEAKERS.TXT",
        ";ID  |SEX| SUBSET\n14   | F | train-clean-360  | 25.03 | Kristin\n84 | F | dev-clean | 8 | X\n"
        "174 | M | dev-clean | 8 | Y | Z\n61   | M | test-clean | 8.1 | Müller\n",
    )
    return root


@pytest.fixture(scope="session")
def tiny_denoiser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A denoiser's file with random weights."""
    path = tmp_path_factory.mktemp("models") / "tiny-denoiser.safetensors"
    save_system(tiny_experts(), path, ModelFacts(task="denoise"))
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file with random weights: valid, but it does not separate."""
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    save_system(tiny_system(), path, ModelFacts())
    return path


@pytest.fixture(scope="session")
def example_sources() -> Samples:
    """``(2, samples)`` at 16 kHz, real speech."""
    folder = EXAMPLES / "two_speakers"
    return np.stack(
        [soundfile.read(folder / name / MIXTURE.name, dtype="float32")[0] for name in ("s1", "s2")]
    )


@pytest.fixture(scope="session")
def example_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of the packaged speech: two speakers per split, enough to run training but not to learn."""
    return _manifest(tmp_path_factory.mktemp("corpus") / "speech.csv", one_speaker_a_file=False)


@pytest.fixture(scope="session")
def crowd_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same speech with a different speaker for every file, for mixtures of three speakers."""
    return _manifest(tmp_path_factory.mktemp("crowd") / "speech.csv", one_speaker_a_file=True)


@pytest.fixture(scope="session")
def separated_folder(crowd_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings, separated by a tiny system: two of two speakers, and one of three."""
    from training_runs import talk_recipe
    from unmingle.training.separated_recordings import separate_recordings

    folder = tmp_path_factory.mktemp("recordings")
    separate_recordings(talk_recipe(crowd_corpus), tiny_system(), folder, {2: 2, 3: 1})
    return folder


@pytest.fixture(scope="session")
def example_noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of steady and of beating noise, enough files for every split, named ``noise``."""
    folder = tmp_path_factory.mktemp("made") / "noise"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(30):
        noise = 0.1 * rng.standard_normal(16000, dtype=np.float32)
        if number % 2:
            noise *= 0.5 + 0.5 * np.sin(np.arange(16000) / 1000).astype(np.float32)
        soundfile.write(folder / f"{number}.wav", noise, 16000)
    return folder


def _manifest(manifest: Path, *, one_speaker_a_file: bool) -> Path:
    rows = ["path,corpus,speaker,gender,split,text"]
    for path in sorted((EXAMPLES / "speech").rglob("*.flac")):
        speaker = path.stem if one_speaker_a_file else path.parent.name
        gender = "F" if path.parent.name == "librivox_reader" else "M"
        for split in ("train", "valid", "test"):
            rows.append(
                f"{os.path.relpath(path, manifest.parent)},examples,{speaker}-{split},{gender},{split},"
            )
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return manifest


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Separation in float32 on every processor."""
    monkeypatch.setattr("unmingle.device.has_fast_bfloat16", lambda device: False)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Run a command in this process: torch is imported once, not for every test."""

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["unmingle", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written to the user's cache or the working folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


class _Addresses(HTMLParser):
    """Collects every address that a page could fetch from."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "iframe", "object", "embed"), tag
        self.found += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "poster", "data")
        ]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag in ("table", "section", "div", "main", "tr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("table", "section", "div", "main", "tr"):
            assert self.open.pop() == tag


def addresses_of_whole_page(page: Path) -> list[str]:
    """The addresses in an HTML page, after checking that it is well formed and fetches nothing."""
    text = page.read_text(encoding="utf-8")
    parser = _Addresses()
    parser.feed(text)
    assert parser.open == []
    for address in parser.found:
        assert address.startswith(("data:", "#")), address[:80]
        if address.startswith("#"):
            assert f'id="{address[1:]}"' in text
    for outward in ("url(", "@import", "http://", "https://"):
        assert outward not in text
    return parser.found


def all_end(processes: list[int]) -> bool:
    """Whether these processes end within 20 seconds. It needs Linux's ``/proc``."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(map(_runs, processes)):
        time.sleep(0.05)
    return not any(map(_runs, processes))


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
