"""Figures of scores and spectrograms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from unmingle.audio import Samples
from unmingle.evaluation.pages import COLOURS, figure_uri, new_figure
from unmingle.evaluation.runs import Run
from unmingle.stft import Stft

_RANGE_DB = 60.0


def density_picture(run: Run) -> str | None:
    """Improvement of every speaker over the SI-SDR of the mixture, coloured by density (Isik et al. 2016, Fig. 1)."""
    points = np.array(
        [
            (
                float(row[f"si_sdr_{n}"]) - float(row[f"si_sdr_improvement_{n}"]),
                float(row[f"si_sdr_improvement_{n}"]),
            )
            for row in run.rows.values()
            for n in range(1, 17)
            if row.get(f"si_sdr_{n}") and row.get(f"si_sdr_improvement_{n}")
        ]
    )
    if len(points) < 3:
        return None
    figure, axes = new_figure(4.2, 3.3)
    axis = axes[0, 0]
    density = _density(points)
    order = density.argsort()
    axis.scatter(*points[order].T, c=density[order], s=9, cmap="viridis", linewidths=0)
    axis.axhline(0, color="#9aa3af", linewidth=0.8)
    axis.set_xlabel("SI-SDR of the mixture (dB)", fontsize=9)
    axis.set_ylabel("improvement (dB)", fontsize=9)
    return figure_uri(figure)


def _density(points: np.ndarray) -> np.ndarray:
    from scipy.stats import gaussian_kde

    try:
        density: np.ndarray = gaussian_kde(points.T)(points.T)
    except np.linalg.LinAlgError:  # All on one line.
        return np.ones(len(points))
    return density


def histogram_picture(runs: Sequence[Run]) -> str | None:
    """Histogram of the improvement, one per system."""
    columns = [list(run.values("si_sdr_improvement").values()) for run in runs]
    together = [value for column in columns for value in column]
    if not together:
        return None
    figure, axes = new_figure(7.0, 3.0)
    axis = axes[0, 0]
    edges = np.linspace(min(together) - 0.5, max(together) + 0.5, 40)
    for number, (run, column) in enumerate(zip(runs, columns, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        axis.hist(column, edges, histtype="stepfilled", color=colour, alpha=0.25)
        axis.hist(column, edges, histtype="step", color=colour, linewidth=1.3, label=run.label)
    axis.axvline(0, color="#9aa3af", linewidth=0.8)
    axis.set_xlabel("SI-SDR improvement of a mixture (dB)", fontsize=9)
    axis.set_ylabel("mixtures", fontsize=9)
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.legend(fontsize=8, frameon=False)
    return figure_uri(figure)


def spectrogram_picture(
    mixture: Samples, sources: Samples, oracle: Samples | None, estimates: Samples, sample_rate: int
) -> str:
    """Spectrograms of the mixture and, per speaker, of the reference, the oracle (if given) and the estimate.

    The layout follows Mobin et al. 2018, Fig. 1.
    """
    kinds = [("reference", sources), ("estimate", estimates)]
    if oracle is not None:
        kinds.insert(1, ("WFM oracle", oracle))
    figure, axes = new_figure(11.0, 1.2 + 1.5 * len(sources), len(sources), 1 + len(kinds))
    top = _decibels(mixture, sample_rate).max()
    for row in range(len(sources)):
        shown = [("mixture", mixture), *((title, audio[row]) for title, audio in kinds)]
        for column, (title, audio) in enumerate(shown):
            axis = axes[row, column]
            if column == 0 and row > 0:
                axis.set_axis_off()
                continue
            _spectrogram(axis, audio, sample_rate, top)
            axis.set_title(title if column == 0 else f"{title} {row + 1}", fontsize=9)
    for axis in axes[:, 1:].flat:
        axis.set_yticklabels([])
        axis.set_ylabel("")
    return figure_uri(figure)


def _spectrogram(axis: Any, audio: Samples, sample_rate: int, top: float) -> None:
    axis.imshow(
        _decibels(audio, sample_rate).T,
        origin="lower",
        aspect="auto",
        vmin=top - _RANGE_DB,
        vmax=top,
        cmap="magma",
        extent=(0, len(audio) / sample_rate, 0, sample_rate / 2000),
    )
    axis.set_xlabel("s", fontsize=8)
    axis.set_ylabel("kHz", fontsize=8)
    axis.tick_params(labelsize=7)


def _decibels(audio: Samples, sample_rate: int) -> np.ndarray:
    hop = max(1, round(0.008 * sample_rate))
    magnitude = Stft(4 * hop, hop).analyse(torch.from_numpy(np.array(audio)).unsqueeze(0))[0].abs()
    decibels: np.ndarray = (20 * torch.log10(magnitude.clamp_min(1e-6))).numpy()
    return decibels
