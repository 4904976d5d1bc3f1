"""`make demo`: separate the shipped two-talker mixture and say how well it went."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch

from unmingle.scoring import best_permutation, pairwise_si_sdr

HERE = Path(__file__).parent / "two_talkers"
NAME = "reader_and_commands.flac"


def main() -> None:
    output = Path("demo")
    program = str(Path(sys.executable).parent / "unmingle")
    command = [program, "separate", str(HERE / "mix" / NAME), "-o", str(output), "--overwrite", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (result,) = json.loads(done.stdout)["files"]
    estimates = np.stack([soundfile.read(path, dtype="float32")[0] for path in result["outputs"]])
    references = np.stack([soundfile.read(HERE / name / NAME, dtype="float32")[0] for name in ("s1", "s2")])
    sources = torch.from_numpy(references).unsqueeze(0)
    score, _ = best_permutation(pairwise_si_sdr(torch.from_numpy(estimates).unsqueeze(0), sources))
    mixture = sources.sum(dim=1, keepdim=True).expand_as(sources)
    start, _ = best_permutation(pairwise_si_sdr(mixture, sources))
    print(f"mixture    {HERE / 'mix' / NAME}  ({result['seconds']:.1f} s, two people at once)")
    for number, path in enumerate(result["outputs"], start=1):
        print(f"talker {number}   {path}")
    print(f"SI-SDR     {float(start):.1f} dB in the mixture, {float(score):.1f} dB separated: ", end="")
    print(f"{float(score - start):+.1f} dB")
    factor = result["real_time_factor"]
    print(f"speed      real-time factor {factor:.3f}: {1 / factor:.0f} times faster than it was spoken")


if __name__ == "__main__":
    main()
