"""``unmingle mix``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from unmingle.errors import UnmingleError


def command(
    context: typer.Context,
    corpora: Annotated[
        list[Path],
        typer.Argument(
            metavar="CORPUS...", help="Manifests, folders with speech.csv, or folders of speaker/*.flac."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the mixtures.")],
    count: Annotated[int, typer.Option("--count", help="Number of mixtures.")] = 100,
    speakers: Annotated[int, typer.Option("--speakers", help="Speakers per mixture.")] = 2,
    snr: Annotated[
        tuple[float, float],
        typer.Option(
            "--snr",
            metavar="LOW HIGH",
            help="Level of speaker 1 over speaker 2 in dB; with one speaker, over the noise.",
        ),
    ] = (0.0, 5.0),
    noise: Annotated[
        list[Path] | None,
        typer.Option(
            "--noise", metavar="CORPUS", help="Add noise from noise.csv or a folder of audio; repeatable."
        ),
    ] = None,
    noise_snr: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--noise-snr", metavar="LOW HIGH", help="Level of all speakers together over the noise in dB."
        ),
    ] = None,
    overlap: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--overlap",
            metavar="LOW HIGH",
            help="Utterances in turns; each overlaps the next by this share (0 to 1) of the shorter one.",
        ),
    ] = None,
    room: Annotated[
        str | None,
        typer.Option(
            "--room",
            help="random: a room per mixture; loudspeakers: one set-up for all, as in RealTalkLibri.",
        ),
    ] = None,
    rt60: Annotated[
        tuple[float, float],
        typer.Option("--rt60", metavar="LOW HIGH", help="Reverberation time in seconds, with --room."),
    ] = (0.2, 0.6),
    distance: Annotated[
        tuple[float, float],
        typer.Option(
            "--distance", metavar="LOW HIGH", help="Distance to the microphone in metres, with --room."
        ),
    ] = (0.5, 2.0),
    wsj0_list: Annotated[
        Path | None,
        typer.Option(
            "--list",
            metavar="FILE",
            help="Make WSJ0-mix from a list such as mix_2_spk_tt.txt; CORPUS is your WSJ0.",
        ),
    ] = None,
    rate: Annotated[int, typer.Option("--rate", help="Sample rate in hertz.")] = 8000,
    mode: Annotated[
        str, typer.Option("--mode", help="min: cut to the shortest utterance; max: pad to the longest.")
    ] = "min",
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same mixtures.")] = 0,
    split: Annotated[str | None, typer.Option("--split", help="train, valid or test (default: all).")] = None,
) -> None:
    """Make mixtures with known sources.

    The layout is that of WSJ0-mix and LibriMix: mix/, s1/, s2/ ... With --noise and --speakers 1 it is
    noisy/, clean/ and noise/. Ranges are LOW HIGH, and every mixture draws a value. Levels of speech
    are active speech levels. mixtures.csv lists sources, speakers, genders, gains and SNR; README.md
    describes the list. A corpus without splits gets them by its speakers' names: 80 % train, 10 %
    valid, 10 % test. If you stop the command, run it again to continue.
    """
    from pydantic import ValidationError
    from rich.console import Console
    from rich.progress import Progress

    from unmingle.data.mixture_writing import MixtureFolderConfig, write_mixture_folder
    from unmingle.data.rooms import RoomConfig

    given = {
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }
    for needed, idle in (
        ("wsj0_list", {"noise", "noise_snr", "overlap", "room", "speakers", "snr", "split", "seed", "count"}),
        ("overlap", {"mode"}),
    ):
        if needed in given and (unused := sorted(idle & given)):
            raise UnmingleError(
                f"{_option(unused[0])} does not go with {_option(needed)}; leave one of them out."
            )
    if not room and (unused := sorted({"rt60", "distance"} & given)):
        raise UnmingleError(f"{_option(unused[0])} needs --room: say --room random or --room loudspeakers.")
    if speakers == 1 and (unused := sorted({"overlap"} & given)):
        raise UnmingleError(f"{_option(unused[0])} needs two speakers or more.")
    if speakers == 1 and not noise and "snr" in given:
        raise UnmingleError("--snr with one speaker is that over the noise: name some with --noise.")
    console = Console(stderr=True)
    progress = Progress(console=console, transient=True, disable=not console.is_terminal)
    if wsj0_list is not None:
        from unmingle.data.wsj0_mix import write_wsj0_mix

        if len(corpora) != 1:
            raise UnmingleError("--list needs one CORPUS, the folder of your WSJ0.")
        if mode not in ("min", "max"):
            raise UnmingleError(f"--mode: there is no {mode!r}; choose min or max.")
        with progress:
            task = progress.add_task("mixing", total=None)
            write_wsj0_mix(
                wsj0_list,
                corpora[0],
                output,
                rate,
                "max" if mode == "max" else "min",
                lambda done, total: progress.update(task, completed=done, total=total),
            )
        print(f"mixtures of {wsj0_list.name} at {rate} Hz: {output}")
        return
    try:
        config = MixtureFolderConfig(
            corpora=[str(path) for path in corpora],
            noise=[str(path) for path in noise or []],
            split=split,
            count=count,
            speakers=speakers,
            snr=snr,
            noise_snr=noise_snr,
            overlap=overlap,
            room=RoomConfig.model_validate({"setting": room, "rt60": rt60, "distance": distance})
            if room
            else None,
            sample_rate=rate,
            mode=mode,
            seed=seed,
        )
        _ = config.mixing  # Says what is wrong with the ranges.
    except ValidationError as error:
        first = error.errors()[0]
        options = {"setting": "room", "sample_rate": "rate"}
        option = "".join(f"--{options.get(str(part), part)}: " for part in first["loc"][:1])
        raise UnmingleError(option + first["msg"].removeprefix("Value error, ") + ".") from error
    with progress:
        task = progress.add_task("mixing", total=count)
        decoding = progress.add_task("decoding", total=None)
        try:
            write_mixture_folder(
                output,
                config,
                on_progress=lambda done, total: progress.update(task, completed=done, total=total),
                on_decoded=lambda done, total: progress.update(decoding, completed=done, total=total),
            )
        except KeyboardInterrupt:
            done = progress.tasks[task].completed
            print(
                f"unmingle: {done:.0f} of {count} mixtures are made; the same command goes on.",
                file=sys.stderr,
            )
            raise
    what = "one speaker in noise" if noise and speakers == 1 else f"{speakers} speakers"
    print(f"{count} mixtures of {what} at {rate} Hz: {output}")


def _option(name: str) -> str:
    return "--" + {"wsj0_list": "list"}.get(name, name).replace("_", "-")
