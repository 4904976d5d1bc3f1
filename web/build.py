"""Build the page that needs no server: `make web` runs this.

The folder web/site then holds all that the page needs, and any static host can serve it: the page, the player of
`unmingle serve`, onnxruntime-web from web/node_modules, and the pretrained models as ONNX graphs.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import unmingle
from unmingle.export import export_model
from unmingle.models import DEFAULT_DENOISER, DEFAULT_MODEL

HERE = Path(__file__).parent
SHARED = (
    "dom.js", "icon.svg", "inputs.js", "keyboard.js", "microphone.js", "mixer.js", "picture.js", "player.js",
    "style.css", "timeline.js", "track_player.js", "wav.js", "worklet.js",
)  # fmt: skip
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def build() -> None:
    """Write the page into web/site; what is there of an earlier build goes."""
    site = HERE / "site"
    runtime = HERE / "node_modules" / "onnxruntime-web" / "dist"
    if not runtime.is_dir():
        raise SystemExit("onnxruntime-web is missing; run: npm ci --prefix web --ignore-scripts")
    shutil.rmtree(site, ignore_errors=True)
    (site / "ort").mkdir(parents=True)
    for path in [*HERE.glob("*.js"), HERE / "index.html"]:
        shutil.copy(path, site)
    for name in SHARED:
        shutil.copy(Path(unmingle.__file__).parent / "serve" / "static" / name, site)
    for name in RUNTIME:
        shutil.copy(runtime / name, site / "ort")
    export_model(DEFAULT_MODEL, site / "models" / "separate")
    export_model(DEFAULT_DENOISER, site / "models" / "denoise")
    _leave_one_count(site / "models" / "separate")


def _leave_one_count(folder: Path) -> None:
    """The page separates as many speakers as the model was trained for."""
    described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    kept = ("embed.onnx", f"masks_{described['speakers']}.onnx")
    for name in set(described["graphs"]) - set(kept):
        (folder / name).unlink()
        del described["graphs"][name]
    (folder / "model.json").write_text(json.dumps(described, indent=1), encoding="utf-8")


if __name__ == "__main__":
    build()
    print("The page is in web/site; try it with: python -m http.server --directory web/site")
