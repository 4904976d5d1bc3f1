"""``unmingle train``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unmingle.cli.options import check_range, require
from unmingle.errors import UnmingleError

if TYPE_CHECKING:
    from unmingle.training.loop import Report


def command(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.yaml", help="Recipe to train; see the folder recipes/.")
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="CORPUS",
            help="Training corpus; or tar files, as a quoted glob or a URL; repeatable.",
        ),
    ] = None,
    noise: Annotated[
        list[Path] | None,
        typer.Option(
            "--noise", metavar="CORPUS", help="Noise corpus, if the corpus has no noise.csv; repeatable."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="RUN", help="Folder of the run (default: runs/NAME)."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run from its checkpoint.")] = False,
    init_from: Annotated[
        str | None, typer.Option("--init-from", metavar="MODEL", help="Start from the weights of a model.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Stop after so many minutes; --resume continues.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Processor threads of all worker processes together.")
    ] = None,
    processes: Annotated[
        int,
        typer.Option("--processes", help="Number of worker processes per machine; all share every batch."),
    ] = 1,
    nodes: Annotated[
        int,
        typer.Option("--nodes", help="Number of machines; start the command on each, with torchrun or srun."),
    ] = 1,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    small: Annotated[
        bool, typer.Option("--small", help="Use the recipe's small variant, which trains in minutes.")
    ] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Run two steps of every stage with a tiny system, as a check.")
    ] = False,
) -> None:
    """Train a system from a recipe.

    Mixtures are made during training. The folder of the run gets best.safetensors (use it with
    `separate --model`), log.csv, curve.png and a checkpoint at every validation and at least every four
    minutes. After a stop of any kind, --resume continues.
    """
    require("train", "lightning_fabric", "yaml", "matplotlib")
    from rich.progress import BarColumn, TextColumn

    from unmingle.cli.progress import TerminalProgress
    from unmingle.temporary import check_writable
    from unmingle.training.launch import train
    from unmingle.training.loop import Options
    from unmingle.training.processes import is_first_process
    from unmingle.training.recipe import read_recipe, shrink
    from unmingle.training.run_folder import RunFolder

    plan = read_recipe(recipe, small=small)
    if data:
        plan = plan.model_copy(update={"data": data})
    if noise:
        plan = plan.model_copy(update={"noise_data": [str(path) for path in noise]})
    if not plan.data:
        raise UnmingleError(f"The recipe {recipe} names no data; give a corpus with --data.")
    check_range("--processes", processes, 1, 256)
    check_range("--nodes", nodes, 1, 4096)
    check_range("--threads", threads, 1, 1024)
    check_range("--minutes", minutes, 0.0, 1e6)
    if smoke:
        plan = shrink(plan)
    run = output or Path("runs") / (f"{plan.name}-smoke" if smoke else plan.name)
    first = is_first_process()
    check_writable(run)
    options = Options(
        resume=resume,
        init_from=init_from,
        minutes=minutes,
        threads=threads,
        processes=processes,
        nodes=nodes,
        device=device,
    )
    columns = (TextColumn("{task.description}"), BarColumn())
    with TerminalProgress(*columns, shown=first, transient=False) as progress:
        task = progress.add_task("starting", total=None)
        printed: float | None = None

        def show(report: Report) -> None:
            nonlocal printed
            line = _describe(report)
            progress.update(task, description=line, completed=report.progress.step, total=report.stage.steps)
            # In a file, one line per validation replaces the bar.
            if first and progress.disable and report.score != printed:
                printed = report.score
                print(line, flush=True)

        def show_decoding(done: int, total: int) -> None:
            progress.update(task, description=f"decoding {done}/{total} files", completed=done, total=total)

        try:
            # The other processes of a run write nothing.
            with RunFolder(run).exclusive_access() if first else nullcontext():
                if smoke and not output and first:
                    RunFolder(run).clear()  # Two steps are not worth continuing.
                progress_made = train(plan, run, options, show, show_decoding)
        except OSError as error:
            raise UnmingleError(f"The run {run} cannot be written: {error}; name another folder.") from error
    if not first:
        return
    print(
        f"{run}: {progress_made.total_steps} steps, {progress_made.audio_seconds / 3600:.2f} hours of mixtures, "
        f"best validation SI-SDR improvement {progress_made.best:.2f} dB"
    )


def _describe(report: Report) -> str:
    score = "" if report.score is None else f"  validation {report.score:+.2f} dB"
    return (
        f"stage {report.progress.stage + 1}/{report.stages}  step {report.progress.step}/{report.stage.steps}"
        f"  loss {report.loss:.3f}{score}  {report.speed:.0f} audio s/s  {report.seconds_left / 60:.0f} min left"
    )
