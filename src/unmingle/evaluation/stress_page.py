"""The HTML page of ``unmingle stress``: a figure and a table for each test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unmingle.evaluation.pages import COLOURS, figure_uri, new_figure, render
from unmingle.evaluation.stress_cases import SECONDS


def stress_page(found: dict[str, Any], spectrograms: Mapping[str, str] | None = None) -> str:
    """The page as one HTML text, from the content of ``stress.json`` and spectrograms by the name of the test."""
    return render(
        "stress.html.j2",
        title=f"{found['system']} under stress",
        found=found,
        seconds=f"{SECONDS:g}",
        pictures=[_picture(test) for test in found["tests"]],
        spectrograms=spectrograms or {},
    )


def _picture(test: dict[str, Any]) -> str | None:
    points = [point for point in test["conditions"] if "mean" in point]
    if len(points) < 2:
        return None
    if test["score"] == "windows":
        return _windows(points)
    figure, axes = new_figure(5.2, 3.2)
    axis = axes[0, 0]
    if test["x_label"]:
        for number, series in enumerate(dict.fromkeys(point["series"] for point in points)):
            own = [point for point in points if point["series"] == series]
            _line(axis, own, COLOURS[number], series or None)
        if any(point["series"] for point in points):
            axis.legend(fontsize=8, frameon=False)
        axis.set_xlabel(test["x_label"], fontsize=9)
    else:
        places = range(len(points))
        axis.bar(places, [point["mean"] for point in points], 0.55, color=COLOURS[0])
        axis.errorbar(
            places, [point["mean"] for point in points], _spread(points), fmt="none", ecolor="#1c2430"
        )
        axis.set_xticks(places, [point["label"] for point in points], fontsize=8)
    axis.axhline(0, color="#9aa3af", linewidth=0.8)
    axis.set_ylabel("SI-SDRi (dB)", fontsize=9)
    return figure_uri(figure)


def _line(axis: Any, points: list[dict[str, Any]], colour: str, label: str | None) -> None:
    axis.errorbar(
        [point["x"] for point in points],
        [point["mean"] for point in points],
        _spread(points),
        color=colour,
        marker="o",
        markersize=4,
        capsize=2,
        linewidth=1.5,
        label=label,
    )


def _spread(points: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    return (
        [point["mean"] - point["low_95"] for point in points],
        [point["high_95"] - point["mean"] for point in points],
    )


def _windows(points: list[dict[str, Any]]) -> str:
    figure, axes = new_figure(5.2, 3.2)
    axis = axes[0, 0]
    # The longest is drawn first, so that the short curves stay visible.
    for number, point in reversed(list(enumerate(points))):
        times, values = zip(*point["windows"], strict=True) if point["windows"] else ((), ())
        axis.plot(times, values, color=COLOURS[number], linewidth=1.3, label=point["label"])
    axis.axhline(0, color="#9aa3af", linewidth=0.8)
    axis.set_xlabel("start of a window of 3 s (s)", fontsize=9)
    axis.set_ylabel("SI-SDR (dB)", fontsize=9)
    axis.legend(fontsize=8, frameon=False)
    return figure_uri(figure)
