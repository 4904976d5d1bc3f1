"""``unmingle models``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unmingle.cli.options import Json

if TYPE_CHECKING:
    from unmingle.systems import System

app = typer.Typer(help="List the pretrained models; show the card of one.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def command(context: typer.Context, as_json: Json = False) -> None:
    """List the pretrained models with task, rate, size, arithmetic, training data, score and licence."""
    if context.invoked_subcommand:
        return
    from rich.console import Console

    from unmingle.models import model_names

    rows = [_describe(name) for name in model_names()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    console = Console(soft_wrap=True)
    for row in rows:
        console.print(f"[bold]{row.pop('name')}[/bold]")
        for key, value in row.items():
            console.print(f"  {key:<12} {value}", markup=False, highlight=False)
    print(
        "A score is on the validation mixtures of a model's own training, so it does not compare models. The card "
        "has test scores: unmingle models show NAME"
    )


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a model; see `unmingle models`.")],
) -> None:
    """Print a model's card.

    The card has the training data, the recipe, scores and limits.
    """
    from unmingle.models import model_card

    print(model_card(name))


def _describe(name: str) -> dict[str, Any]:
    from unmingle.models import find_model, load_system, read_facts

    system = load_system(name)
    _, facts = read_facts(find_model(name))
    return {
        "name": name,
        "task": facts.task,
        "rate": f"{system.sample_rate} Hz",
        "speakers": system.speakers,
        "parameters": _parameters(system),
        "arithmetic": f"{system.multiply_accumulates(10.0) / 10 / 1e9:.3f} GMAC per second of audio, at most",
        "data": facts.data,
        "score": facts.score,
        "licence": facts.licence,
    }


def _parameters(system: System) -> str:
    learned, active = system.parameter_count(), system.active_parameter_count()
    text = f"{learned / 1e6:.2f} M"
    return (
        text if learned == active else f"{text}, of which {active / 1e6:.2f} M at most work on one recording"
    )
