"""``unmingle export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unmingle.cli.options import require


def command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A name from `unmingle models`, or a .safetensors file.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the files.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write a model as ONNX graphs.

    The folder runs wherever onnxruntime runs, browsers included; its model.json describes the graphs.
    `separate` and `denoise` take the folder as --model.

    \b
      unmingle export separator-8khz -o exported
      unmingle separate meeting.wav --model exported
    """
    require("onnx", "onnx", "onnxruntime")
    from unmingle.export import export_model
    from unmingle.temporary import check_writable

    check_writable(output)
    for path in export_model(model, output, overwrite=overwrite):
        print(f"{path}: {path.stat().st_size / 1e6:.3f} MB")
