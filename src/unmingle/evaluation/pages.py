"""What the pages of reports and stress tests are made of: one file, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import io
from functools import cache
from typing import Any

import numpy as np

from unmingle.audio import Samples, encode_audio, resample

COLOURS = ("#2563a8", "#c2410c", "#15803d", "#7e3fa0", "#a16207", "#0e7490", "#be185d", "#4b5563")
"""Of systems and speakers, in their order."""
_PLAYER_RATE = 16000
"""MP3 can hold it, and every browser plays it."""


def render(template: str, **values: Any) -> str:
    """A page from a template in ``templates/``; whatever is put in is escaped."""
    text: str = _environment().get_template(template).render(colours=COLOURS, **values)
    return text


@cache
def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("unmingle.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """A figure of so many inches and its axes, ``(rows, columns)``; made without a display."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams["text.parse_math"] = False  # A dollar in a name is a dollar.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes


def figure_uri(figure: Any) -> str:
    """A figure as the address of a picture that lies in the page itself."""
    encoded = io.BytesIO()
    # Without its time stamp and version: the same results are the same page.
    figure.savefig(encoded, format="png", dpi=130, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()


def audio_uri(samples: Samples, sample_rate: int, gain: float = 1.0) -> str:
    """``(samples,)`` as the address of a sound that lies in the page itself."""
    played = np.clip(gain * resample(samples, sample_rate, _PLAYER_RATE), -1.0, 1.0)
    return "data:audio/mpeg;base64," + base64.b64encode(encode_audio(played, _PLAYER_RATE, "mp3")).decode()
