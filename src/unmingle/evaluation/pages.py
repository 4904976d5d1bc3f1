"""Building blocks of the HTML pages of reports and stress tests. A page is one file and loads nothing else."""

from __future__ import annotations

import base64
import io
from functools import cache
from typing import Any

import numpy as np

from unmingle.audio import Samples, encode_audio, resample

COLOURS = ("#2563a8", "#c2410c", "#15803d", "#7e3fa0", "#a16207", "#0e7490", "#be185d", "#4b5563")
"""Colours of systems and speakers, in their order."""
_PLAYER_RATE = 16000
"""In hertz: MP3 supports it, and every browser plays it."""


def render(template: str, **values: Any) -> str:
    """A page from a template in ``templates/``. All values are HTML-escaped."""
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
    """A figure and its axes ``(rows, columns)``; width and height are in inches. Needs no display."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams["text.parse_math"] = False  # A dollar sign in a name stays a dollar sign.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes


def figure_uri(figure: Any) -> str:
    """A figure as a PNG ``data:`` URI."""
    encoded = io.BytesIO()
    # No time stamp and version in the file: the same results give the same page.
    figure.savefig(encoded, format="png", dpi=130, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()


def audio_uri(samples: Samples, sample_rate: int, gain: float = 1.0) -> str:
    """``(samples,)`` as an MP3 ``data:`` URI."""
    played = np.clip(gain * resample(samples, sample_rate, _PLAYER_RATE), -1.0, 1.0)
    return "data:audio/mpeg;base64," + base64.b64encode(encode_audio(played, _PLAYER_RATE, "mp3")).decode()
