"""The layers: each imports only layers below it, and the core needs no extra."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import unmingle
from conftest import MIXTURE, ROOT

SOURCE = Path(unmingle.__file__).parent
LAYERS = [
    {"errors", "config", "batch", "padding", "version"},
    {"device", "memory", "temporary", "workers", "samples", "mpeg_frames"},
    {"audio_containers", "audio_names", "shares", "network_files"},
    {"audio_decoders"},
    {"audio_reading"},
    {"audio", "arrays", "stft", "masks", "clustering", "networks"},
    {"audio_blocks", "audio_stream", "file_batches"},
    {"metrics", "remote"},
    {"permutation", "frontend"},
    {"attractors", "counting", "losses", "perceptual", "speaker_encoder", "speaker_activity"},
    {"systems"},
    {"exported_files"},
    {"exported", "graphs"},
    {"models"},
    {"export"},
    {"data", "denoising"},
    {"separation"},
    {"live"},
    {"training", "evaluation"},
    {"serve", "cluster"},
    {"cli"},
]
EXTRAS = ["lightning_fabric", "yaml", "matplotlib", "fast_bss_eval", "pesq", "pystoi", "av"]
EXTRAS += ["starlette", "uvicorn", "websockets", "ray", "fsspec"]
UNUSED = ["onnx", "onnxruntime"]  # PyTorch looks whether they are there.
COMPILER = {"torch._dynamo", "sympy"}
"""PyTorch imports them, in seconds, for some operations on the meta device."""
UPPER = ("unmingle.training", "unmingle.evaluation", "unmingle.data", "unmingle.serve", "unmingle.cluster")
NAMES_FOR_HELP = {"unmingle.evaluation", "unmingle.evaluation.metric_registry"}
"""They import nothing: the command line's help names the metrics."""


def _forbidden(loaded: list[str]) -> set[str]:
    return {
        name
        for name in loaded
        if name.split(".")[0] in (*EXTRAS, *UNUSED) or ".".join(name.split(".")[:2]) in UPPER
    } - NAMES_FOR_HELP


def _layer(module: str) -> int:
    return next(number for number, modules in enumerate(LAYERS) if module in modules)


def _imports(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("unmingle"):
            parts = node.module.split(".")
            modules |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return modules - {"__version__"}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_each_layer_imports_only_layers_below_it(path: Path) -> None:
    module = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if module in ("__init__", "__main__"):
        return
    for other in _imports(path) - {module}:
        assert _layer(other) < _layer(module), f"{path} imports {other}"


def test_contributing_names_every_module() -> None:
    """A module of its own in the second column of the table of layers, a package's modules in the third."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    alone = [name for modules, _ in rows for name in re.findall(r"`([^`]+)`", modules)]
    inside = {modules.strip("`/"): re.findall(r"`([^`]+)`", held) for modules, held in rows}
    for path in sorted(SOURCE.glob("*.py")):
        assert path.name.startswith("__") or any(fnmatch(path.name, name) for name in alone), path.name
    for path in sorted(SOURCE.glob("*/*.py")):
        package = path.parent.name
        assert path.stem == "__init__" or path.stem in inside[package], f"{package}/{path.name}"
    for package, names in inside.items():
        for name in names if (SOURCE / package).is_dir() else ():
            assert (SOURCE / package / name).is_dir() or (SOURCE / package / f"{name}.py").is_file(), name


def _run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_takes_nothing_heavy() -> None:
    loaded = _run("import sys, unmingle, unmingle.cli.main; print(*sys.modules)").split()
    assert not {"torch", "numpy", "soundfile"} & set(loaded)
    assert not _forbidden(loaded)


def test_separating_a_file_imports_no_extra_no_upper_layer_and_no_compiler(tmp_path: Path) -> None:
    """By the pretrained models: all of them load, because the speakers are counted."""
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
from unmingle.cli.main import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print(*sys.modules)
"""
    loaded = _run(code, "separate", str(MIXTURE), "-o", str(tmp_path / "out")).split()
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert not _forbidden(loaded)
    assert not COMPILER & set(loaded)
