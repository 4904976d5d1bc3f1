"""``unmingle mix``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from unmingle.cli.options import ShareOption, given_options, refuse_others, refused_option
from unmingle.errors import UnmingleError

if TYPE_CHECKING:
    from unmingle.data.mixture_writing import MixtureFolderConfig
    from unmingle.shares import Share

OnProgress = Callable[[int, int], None]
_COUNT = 100


def command(
    context: typer.Context,
    corpora: Annotated[
        list[Path],
        typer.Argument(
            metavar="CORPUS...", help="Manifests, folders with speech.csv, or folders of speaker/*.flac."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the mixtures.")],
    count: Annotated[int, typer.Option("--count", help="Number of mixtures.")] = _COUNT,
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
    shard: ShareOption = None,
) -> None:
    """Make mixtures with known sources.

    The layout is that of WSJ0-mix and LibriMix: mix/, s1/, s2/ ... With --noise and --speakers 1 it is
    noisy/, clean/ and noise/. Ranges are LOW HIGH, and every mixture draws a value. Levels of speech
    are active speech levels. mixtures.csv lists sources, speakers, genders, gains and SNR; README.md
    describes the list. A corpus without splits gets them by its speakers' names: 80 % train, 10 %
    valid, 10 % test. If you stop the command, run it again to continue.
    """
    if wsj0_list is not None:
        refuse_others(context, ("corpora", "output", "wsj0_list", "rate", "mode", "shard"), "--list")
        _mix_a_list(wsj0_list, corpora, output, rate, mode, shard)
    else:
        _mix_a_corpus(given_options(context), output, shard)


def _mix_a_list(
    wsj0_list: Path, corpora: list[Path], output: Path, rate: int, mode: str, shard: str | None
) -> None:
    from unmingle.data.wsj0_mix import read_list, write_wsj0_mix

    if len(corpora) != 1:
        raise UnmingleError("--list needs one CORPUS, the folder of your WSJ0.")
    if mode not in ("min", "max"):
        raise UnmingleError(f"--mode: there is no {mode!r}; choose min or max.")
    cut: Literal["min", "max"] = "max" if mode == "max" else "min"

    def write(share: Share | None, on_progress: OnProgress, _: OnProgress) -> bool:
        return write_wsj0_mix(wsj0_list, corpora[0], output, rate, cut, on_progress=on_progress, share=share)

    what = f"mixtures of {wsj0_list.name} at {rate} Hz"
    _show(write, len(read_list(wsj0_list)), what, output, shard)


def _mix_a_corpus(given: dict[str, Any], output: Path, shard: str | None) -> None:
    from unmingle.data.mixture_writing import write_mixture_folder

    config = _config(given)

    def write(share: Share | None, on_progress: OnProgress, on_decoded: OnProgress) -> bool:
        return write_mixture_folder(
            output, config, on_progress=on_progress, on_decoded=on_decoded, share=share
        )

    who = "one speaker in noise" if config.noise and config.speakers == 1 else f"{config.speakers} speakers"
    _show(write, config.count, f"mixtures of {who} at {config.sample_rate} Hz", output, shard)


def _show(
    write: Callable[[Share | None, OnProgress, OnProgress], bool],
    count: int,
    what: str,
    output: Path,
    shard: str | None,
) -> None:
    """Write ``count`` mixtures with a progress bar, and say what is there."""
    from unmingle.cli.progress import TerminalProgress
    from unmingle.shares import parse_share

    share = parse_share(shard) if shard is not None else None
    total = len(share.pick(range(count))) if share else count
    with TerminalProgress() as progress:
        task = progress.add_task("mixing", total=total)
        decoding = progress.add_task("decoding", total=None, visible=False)
        try:
            complete = write(
                share,
                lambda done, total: progress.update(task, completed=done, total=total),
                lambda done, total: progress.update(decoding, completed=done, total=total, visible=True),
            )
        except KeyboardInterrupt:
            done = progress.tasks[task].completed
            print(
                f"unmingle: {done:.0f} of {total} mixtures are made; run the same command again to continue.",
                file=sys.stderr,
            )
            raise
    if complete:
        print(f"{count} {what}: {output}")
    else:
        print(
            f"share {shard}: {total} of {count} mixtures are made; the last share to end completes {output}"
        )


def _config(given: dict[str, Any]) -> MixtureFolderConfig:
    """The config of the given options. It has the defaults, and refuses options that exclude each other."""
    from pydantic import ValidationError

    from unmingle.data.mixture_writing import MixtureFolderConfig

    values = {name: value for name, value in given.items() if name not in ("output", "shard")}
    room = {name: values.pop(name) for name in ("room", "rt60", "distance") if name in values}
    if room and "room" not in room:
        raise UnmingleError(f"{_option(min(room))} needs --room: say --room random or --room loudspeakers.")
    if room:
        values["room"] = {"setting": room.pop("room"), **room}
    if "rate" in values:
        values["sample_rate"] = values.pop("rate")
    for name in {"corpora", "noise"} & values.keys():
        values[name] = [str(path) for path in values[name]]
    try:
        return MixtureFolderConfig.model_validate({"count": _COUNT, **values})
    except ValidationError as error:
        raise refused_option(error, {"sample_rate": "rate"}) from error


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
