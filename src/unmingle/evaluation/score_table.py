"""The table ``scores.csv`` of ``unmingle evaluate``."""

from __future__ import annotations

from collections.abc import Sequence

from unmingle.data.tables import write_table
from unmingle.evaluation.summary import MixtureScores


def scores_csv(scores: Sequence[MixtureScores], metrics: Sequence[str], speakers: int) -> bytes:
    """``scores.csv``: a row per mixture.

    Args:
        scores: of the mixtures, in order.
        metrics: names of the metrics that were computed.
        speakers: the largest number of references of a mixture.
    """
    columns = [name for metric in metrics for name in (metric, f"{metric}_improvement")]
    groups = sorted({kind for score in scores for kind in score.groups})
    numbers = range(1, speakers + 1)
    spoken, counts = any(score.words for score in scores), any(score.counted for score in scores)
    versions = list(dict.fromkeys(name for score in scores for t in score.words if t for name in t.errors))
    counting = ["speakers_true", "speakers_counted", "confidence"] if counts else []
    header = (
        ["name", "seconds", *counting, *groups, *columns]
        + [f"{column}_{n}" for column in columns for n in numbers]
        + [f"{name}_{n}" for name in (["words"] if spoken else []) for n in numbers]
        + [f"word_errors_{version}_{n}" for version in versions for n in numbers]
        + ["speakers", "notes", "failure"]
    )
    rows = []
    for score in scores:
        values = [score.mean(column) for column in columns]
        nothing: list[float | None] = [None] * speakers
        values += [v for column in columns for v in [*score.values.get(column, ()), *nothing][:speakers]]
        errors = (*score.words, *[None] * speakers)[:speakers]
        word_cells = [speaker.words if speaker else None for speaker in errors] if spoken else []
        word_cells += [
            speaker.errors.get(version) if speaker else None for version in versions for speaker in errors
        ]
        rows.append(
            [score.name, f"{score.seconds:.3f}", *(_counted(score) if counts else ())]
            + [score.groups.get(kind, "") for kind in groups]
            + ["" if value is None else f"{value:.4f}" for value in values]
            + ["" if count is None else str(count) for count in word_cells]
            + ["|".join(score.speakers), "; ".join(score.notes), score.failure]
        )
    return write_table(header, rows)


def _counted(score: MixtureScores) -> tuple[str, str, str]:
    if score.counted is None:
        return "", "", ""
    return str(score.counted.true), str(score.counted.found), f"{score.counted.confidence:.4f}"
