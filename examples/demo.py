"""`make demo`: separate the shipped two-speaker mixture, clean the shipped noisy one, and say how well it went."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from unmingle.metrics import si_sdr
from unmingle.scoring import best_permutation, pairwise_si_sdr

EXAMPLES = Path(__file__).parent
OUTPUT = Path("demo")


def run(command: str, path: Path) -> dict[str, Any]:
    """What the program says of one file."""
    program = str(Path(sys.executable).parent / "unmingle")
    arguments = [program, command, str(path), "-o", str(OUTPUT), "--overwrite", "--json"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    (result,) = json.loads(done.stdout)["files"]
    return dict(result)


def speed(result: dict[str, Any]) -> None:
    factor = result["real_time_factor"]
    print(f"speed      real-time factor {factor:.3f}: {1 / factor:.0f} times faster than it was spoken")


def separate() -> None:
    here, name = EXAMPLES / "two_speakers", "reader_and_commands.flac"
    result = run("separate", here / "mix" / name)
    estimates = np.stack([soundfile.read(path, dtype="float32")[0] for path in result["outputs"]])
    references = np.stack([soundfile.read(here / part / name, dtype="float32")[0] for part in ("s1", "s2")])
    sources = torch.from_numpy(references).unsqueeze(0)
    score, _ = best_permutation(pairwise_si_sdr(torch.from_numpy(estimates).unsqueeze(0), sources))
    mixture = sources.sum(dim=1, keepdim=True).expand_as(sources)
    start, _ = best_permutation(pairwise_si_sdr(mixture, sources))
    print(f"mixture    {here / 'mix' / name}  ({result['seconds']:.1f} s, two people at once)")
    for number, path in enumerate(result["outputs"], start=1):
        print(f"speaker {number}   {path}")
    print(f"SI-SDR     {float(start):.1f} dB in the mixture, {float(score):.1f} dB separated: ", end="")
    print(f"{float(score - start):+.1f} dB")
    speed(result)


def denoise() -> None:
    here, name = EXAMPLES / "in_noise", "reader_in_wind.flac"
    result = run("denoise", here / "noisy" / name)
    noisy, cleaned, clean = (
        torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        for path in (here / "noisy" / name, result["output"], here / "clean" / name)
    )
    start, score = float(si_sdr(noisy, clean)), float(si_sdr(cleaned, clean))
    print(f"noisy      {here / 'noisy' / name}  ({result['seconds']:.1f} s, one person in wind)")
    print(f"cleaned    {result['output']}")
    print(f"SI-SDR     {start:.1f} dB in the noise, {score:.1f} dB cleaned: {score - start:+.1f} dB")
    speed(result)


def main() -> None:
    separate()
    print()
    denoise()


if __name__ == "__main__":
    main()
