"""``unmingle fix-attractors``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unmingle.cli.options import Threads, check_range, require, set_threads


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An embedding separator: a name or a path.")],
    data: Annotated[list[str], typer.Option("--data", metavar="CORPUS", help="Training corpus; repeatable.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="NEW.safetensors", help="The model to write.")
    ],
    mixtures: Annotated[int, typer.Option("--mixtures", help="Number of mixtures to collect from.")] = 10_000,
    seconds: Annotated[float, typer.Option("--seconds", help="Length of each mixture in seconds.")] = 3.2,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing model.")] = False,
    threads: Threads = None,
) -> None:
    """Give a model fixed attractors.

    The result is a copy of the model that needs no clustering. The oracle attractors of training
    mixtures are collected, one set per mixture. The sets are clustered without regard to order, and the
    mean of the largest cluster is stored (Luo, Chen, Mesgarani 2018).
    """
    require("train", "lightning_fabric", "yaml")
    from unmingle.temporary import check_target, check_writable
    from unmingle.training.fixed_attractors import fix_attractors

    set_threads(threads)
    check_range("--mixtures", mixtures, 1, 10**7)
    check_range("--seconds", seconds, 0.05, 600.0)
    check_target(output)
    check_writable(output.parent)
    points = fix_attractors(model, data, output, mixtures, seconds, overwrite)
    print(f"{output}: {len(points)} fixed attractors from {mixtures} mixtures")
