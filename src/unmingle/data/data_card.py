"""The data card of a folder of mixtures: content, sources, licences and recipe."""

from __future__ import annotations

from collections.abc import Sequence

from unmingle import __version__
from unmingle.data.corpora import Utterance


def data_card(
    recipe: str,
    rows: Sequence[dict[str, str]],
    utterances: Sequence[Utterance],
    recordings: Sequence[Utterance],
    digest: str,
) -> str:
    """Markdown for ``README.md``.

    Args:
        recipe: the text of ``recipe.json``.
        rows: of ``mixtures.csv``.
        utterances: all utterances that can be drawn.
        recordings: all noise recordings that can be drawn.
        digest: hash of the list, as in ``unmingle evaluate``.
    """
    hours = sum(float(row["seconds"]) for row in rows) / 3600
    used = {value for row in rows for key, value in row.items() if key.startswith("source_")}
    speakers = {value for row in rows for key, value in row.items() if key.startswith("speaker_")}
    ranges = [
        f"- {label}: {min(values):.2f} to {max(values):.2f}"
        for label, column in (
            ("SNR (dB)", "snr_db"),
            ("SNR over the noise (dB)", "noise_snr_db"),
            ("share of the time in which two or more speakers talk", "overlap"),
            ("reverberation time (s)", "rt60"),
        )
        if (values := [float(row[column]) for row in rows if row.get(column)])
    ]
    lines = [
        f"# {len(rows)} mixtures, {hours:.2f} hours",
        "",
        f"{len(used)} utterances of {len(speakers)} speakers. List {digest}. Made by unmingle {__version__}.",
        "",
        *ranges,
        "",
        "`mixtures.csv` lists the sources of each mixture. The mixture is the sum of the sources (and the noise).",
        "",
        "| corpus | files to draw from | speakers or classes | licences |",
        "| --- | --- | --- | --- |",
        *_corpora(utterances),
        *_corpora(recordings),
        "",
        "## Recipe",
        "",
        "```json",
        recipe,
        "```",
        "",
    ]
    return "\n".join(lines)


def _corpora(utterances: Sequence[Utterance]) -> list[str]:
    lines = []
    for corpus in sorted({utterance.corpus for utterance in utterances}):
        own = [utterance for utterance in utterances if utterance.corpus == corpus]
        licences = ", ".join(sorted({utterance.license for utterance in own}))
        lines.append(f"| {corpus} | {len(own)} | {len({one.speaker for one in own})} | {licences} |")
    return lines
