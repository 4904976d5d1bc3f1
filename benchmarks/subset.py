"""A corpus cut down to so many hours of training speech: where a system can overfit within half an hour.

    python benchmarks/subset.py CORPUS OUT --hours 1

OUT/speech.csv lists speakers of the training split, drawn one by one until the hours are full, and all of the
other splits; the audio stays where it is.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "corpus", type=Path, help="a folder with speech.csv, whose rows have split and seconds"
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    with (arguments.corpus / "speech.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["path"] = str((arguments.corpus / row["path"]).resolve())
    speakers = sorted({row["speaker"] for row in rows if row["split"] == "train"})
    random.Random(arguments.seed).shuffle(speakers)
    kept: list[dict[str, str]] = [row for row in rows if row["split"] != "train"]
    seconds = 0.0
    count = 0
    while seconds < arguments.hours * 3600 and count < len(speakers):
        of_speaker = [row for row in rows if row["speaker"] == speakers[count] and row["split"] == "train"]
        kept += of_speaker
        seconds += sum(float(row["seconds"]) for row in of_speaker)
        count += 1
    arguments.output.mkdir(parents=True, exist_ok=True)
    with (arguments.output / "speech.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(kept)
    print(f"{count} speakers, {seconds / 3600:.2f} hours of training speech in {arguments.output}")


if __name__ == "__main__":
    main()
