"""Another corpus of the same audio, which stays where it is.

    python benchmarks/subset.py CORPUS OUT --hours 1
    python benchmarks/subset.py CORPUS OUT --validation

With --hours, where a system can overfit within half an hour: OUT/speech.csv lists speakers of the training split,
drawn one by one until the hours are full, and all of the other splits. With --validation, what a trained system has
not heard: the training split of OUT/speech.csv and OUT/noise.csv is the validation split of CORPUS. It is their
validation split, too.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

Rows = list[dict[str, str]]


def of_hours(rows: Rows, hours: float, seed: int) -> Rows:
    """Speakers of the training split until so many hours are full, and the other splits."""
    speakers = sorted({row["speaker"] for row in rows if row["split"] == "train"})
    random.Random(seed).shuffle(speakers)
    kept = [row for row in rows if row["split"] != "train"]
    seconds, count = 0.0, 0
    while seconds < hours * 3600 and count < len(speakers):
        of_speaker = [row for row in rows if row["speaker"] == speakers[count] and row["split"] == "train"]
        kept += of_speaker
        seconds += sum(float(row["seconds"]) for row in of_speaker)
        count += 1
    print(f"{count} speakers, {seconds / 3600:.2f} hours of training speech")
    return kept


def of_validation(rows: Rows) -> Rows:
    """The validation split, as training and as validation split."""
    valid = [row for row in rows if row["split"] == "valid"]
    return [row | {"split": split} for split in ("train", "valid") for row in valid]


def read(path: Path) -> Rows:
    """The rows of a table, with absolute paths."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row | {"path": str((path.parent / row["path"]).resolve())} for row in rows]


def write(path: Path, rows: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "corpus", type=Path, help="a folder with speech.csv, whose rows have split and seconds"
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    speech = read(arguments.corpus / "speech.csv")
    if not arguments.validation:
        write(arguments.output / "speech.csv", of_hours(speech, arguments.hours, arguments.seed))
        return
    write(arguments.output / "speech.csv", of_validation(speech))
    write(arguments.output / "noise.csv", of_validation(read(arguments.corpus / "noise.csv")))


if __name__ == "__main__":
    main()
