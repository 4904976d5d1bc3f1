"""Score the default model and the WFM oracle on 300 test mixtures of a corpus.

    python benchmarks/separation_scores.py CORPUS [OUTPUT]

The list: test split, seed 1, 0 to 5 dB, min mode, 8 kHz; the corpora of the manifest are drawn
equally often. Prints the tables of `unmingle evaluate` and the model's share of the oracle.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from unmingle.models import DEFAULT_MODEL


def run(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "unmingle", *map(str, arguments)], check=True)


def gain(folder: Path) -> float:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return float(summary["metrics"]["si_sdr_improvement"]["mean"])


def main(corpus: str, output: Path, model: str) -> None:
    mixtures = output / "test-300"
    if not mixtures.exists():
        run("mix", corpus, "-o", mixtures, "--count", 300, "--speakers", 2, "--snr", 0, 5, "--rate", 8000,
            "--mode", "min", "--seed", 1, "--split", "test")  # fmt: skip
    run("evaluate", mixtures, "--oracle", "wfm", "-o", output / "wfm")
    run("evaluate", mixtures, "--model", model, "-o", output / "model")
    share = gain(output / "model") / gain(output / "wfm")
    print(f"share of the WFM oracle's SI-SDR improvement: {share:.1%}")


if __name__ == "__main__":
    main(
        sys.argv[1],
        Path(sys.argv[2] if len(sys.argv) > 2 else "scores"),
        sys.argv[3] if len(sys.argv) > 3 else DEFAULT_MODEL,
    )
