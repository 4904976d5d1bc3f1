"""``unmingle mix``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unmingle.errors import UnmingleError


def command(
    corpora: Annotated[
        list[Path],
        typer.Argument(metavar="CORPUS...", help="Manifests, folders with speech.csv, or speaker/*.flac."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to make.")],
    count: Annotated[int, typer.Option("--count", help="How many mixtures.")] = 100,
    talkers: Annotated[int, typer.Option("--talkers", help="Talkers in each.")] = 2,
    snr: Annotated[
        tuple[float, float],
        typer.Option(
            "--snr", metavar="LOW HIGH", help="Range of talker 1 over talker 2, or over the noise, in dB."
        ),
    ] = (0.0, 5.0),
    noise: Annotated[
        list[Path] | None,
        typer.Option(
            "--noise", metavar="CORPUS", help="Noise for one talker: noise.csv, or folders of audio."
        ),
    ] = None,
    rate: Annotated[int, typer.Option("--rate", help="Sample rate in hertz.")] = 8000,
    mode: Annotated[
        str, typer.Option("--mode", help="min: cut to the shortest; max: pad to the longest.")
    ] = "min",
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same mixtures.")] = 0,
    split: Annotated[
        str | None, typer.Option("--split", help="train, valid or test; all if not given.")
    ] = None,
) -> None:
    """Make mixtures of known talkers, in the layout of WSJ0-mix and LibriMix: mix/, s1/, s2/ ...

    Levels are active speech levels. mixtures.csv lists sources, talkers, genders, gains and SNR. A
    corpus without splits gets them by its speakers' names: 80 % train, 10 % valid, 10 % test. With
    --noise and --talkers 1: noisy/, clean/, noise/, the talker's active level over the noise's.
    """
    from pydantic import ValidationError
    from rich.console import Console
    from rich.progress import Progress

    from unmingle.data.mixture_folders import MixtureFolderConfig, write_mixture_folder

    try:
        config = MixtureFolderConfig(
            corpora=[str(path) for path in corpora],
            noise=[str(path) for path in noise or []],
            split=split,
            count=count,
            talkers=talkers,
            snr=snr,
            sample_rate=rate,
            mode=mode,
            seed=seed,
        )
    except ValidationError as error:
        first = error.errors()[0]
        option = " ".join(f"--{part}" for part in first["loc"][:1]) or "An option"
        raise UnmingleError(f"{option} will not do: {first['msg'].lower()}.") from error
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("mixing", total=count)
        decoding = progress.add_task("decoding", total=None)
        write_mixture_folder(
            output,
            config,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
            on_decoded=lambda done, total: progress.update(decoding, completed=done, total=total),
        )
    what = "one talker in noise" if noise else f"{talkers} talkers"
    print(f"{count} mixtures of {what} at {rate} Hz: {output}")
