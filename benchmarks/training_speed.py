"""Audio seconds per second of training: the whole step, the bare BLSTM it is built around, recurrent dropout.

    python benchmarks/training_speed.py [THREADS]

Random audio, because speed does not depend on what is said; the data is made by another process in a
real run and takes about a twentieth of a core. A step is loss, backward, clipping and Adam.
"""

from __future__ import annotations

import datetime
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from unmingle.batch import MixtureBatch
from unmingle.memory import keep_freed_memory
from unmingle.networks import Blstm, BlstmConfig
from unmingle.systems import build_system
from unmingle.training.recipe import read_recipe

RECIPES = Path(__file__).parent.parent / "recipes"
STEPS = 6


def best_time(step: Callable[[], None]) -> float:
    """Seconds of the fastest of some steps; the first ones warm up."""
    times = []
    for _ in range(STEPS):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return min(times)


def bare_blstm(frames: int, batch: int, half: bool) -> float:
    network = torch.nn.LSTM(129, 300, 4, bidirectional=True, batch_first=True)
    features = torch.randn(batch, frames, 129)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = network(features)[0]
        output.float().square().mean().backward()

    return best_time(step)


def whole_step(recipe_name: str, seconds: float, batch: int, half: bool) -> float:
    recipe = read_recipe(RECIPES / recipe_name)
    system = build_system(recipe.system)
    sources = torch.randn(batch, 2, round(seconds * system.sample_rate))
    data = MixtureBatch(sources.sum(dim=1), sources, torch.ones(batch, 2, dtype=torch.bool))
    optimizer = torch.optim.Adam(system.parameters(), fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = system.loss(data)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(system.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()

    return best_time(step)


def blstm_step(recurrent_dropout: float, half: bool) -> float:
    """Forward and backward through 4 layers of 300, 32 sequences of 100 frames."""
    network = Blstm(129, BlstmConfig(recurrent_dropout=recurrent_dropout))
    features = torch.randn(32, 100, 129)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = network.run_layers(features)
        output.float().square().mean().backward()
        network.zero_grad()

    return best_time(step)


def main() -> None:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    torch.set_num_threads(threads)
    keep_freed_memory()
    print(f"{datetime.date.today()}, {platform.machine()}, {threads} threads, torch {torch.__version__}\n")
    print("| recipe | hop (ms) | batch | precision | bare 4 x 300 BLSTM | whole step | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    cases = [
        ("luo2018/table2-anchors6.yaml", 8, 3.2, 16, False),
        ("adanet-2speakers-8khz/1-full-overlap.yaml", 16, 4.0, 16, True),
        ("adanet-2speakers-8khz/1-full-overlap.yaml", 16, 4.0, 32, True),
    ]
    for recipe, hop, seconds, batch, half in cases:
        audio = batch * seconds
        bare = audio / bare_blstm(round(seconds * 1000 / hop), batch, half)
        whole = audio / whole_step(recipe, seconds, batch, half)
        precision = "bf16-mixed" if half else "float32"
        print(
            f"| {recipe} | {hop} | {batch} x {seconds} s | {precision} | {bare:.0f} audio s/s | "
            f"{whole:.0f} audio s/s | {bare / whole:.2f} |",
            flush=True,
        )

    print("\n| BLSTM, 4 x 300, 32 x 100 frames | plain (s) | recurrent dropout (s) | ratio |")
    print("| --- | --- | --- | --- |")
    for half in (False, True):
        plain, dropped = blstm_step(0.0, half), blstm_step(0.2, half)
        precision = "bfloat16" if half else "float32"
        print(f"| {precision} | {plain:.2f} | {dropped:.2f} | {dropped / plain:.1f} |", flush=True)


if __name__ == "__main__":
    main()
