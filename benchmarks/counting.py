"""How well a model counts speakers: one, two and three of them, in crops of 6 s of a corpus.

    python benchmarks/counting.py CORPUS MODEL [SPLIT] [KEY=VALUE ...]

Prints the confusion matrix. benchmarks/counting_confidence.py tells how far the confidence can be trusted.
Settings change the model as in `unmingle evaluate --set`: with formation=spherical_kmeans the spread of
the embeddings is what counts, with anchors the energy of the outputs.
"""

from __future__ import annotations

import datetime
import platform
import sys

import torch

from unmingle.data.batches import Crops
from unmingle.data.cache import decode
from unmingle.data.corpora import read_corpora
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig
from unmingle.models import load_system, parse_changes

MIXTURES = 100
SECONDS = 6.0


def main(corpus: str, model: str, split: str, settings: list[str]) -> None:
    changes = parse_changes(settings)
    system = load_system(model, changes=changes)
    utterances = read_corpora([corpus], split)
    speech = decode(utterances, system.sample_rate)
    table = torch.zeros(3, system.speakers, dtype=torch.long)
    for speakers in (1, 2, 3):
        mixer = Mixer(utterances, speech, system.sample_rate, MixingConfig(speakers=speakers), seed=speakers)
        crops = Crops(mixer, SECONDS, 20, batches=MIXTURES // 20)
        for number in range(len(crops)):
            estimates = system.separate(crops[number].mixture)
            for count in estimates.count.tolist():
                table[speakers - 1, count - 1] += 1
    print(
        f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}: {model}, {split}, {changes}\n"
    )
    print("| speakers | " + " | ".join(f"counted {n}" for n in range(1, system.speakers + 1)) + " |")
    print("| --- " * (system.speakers + 1) + "|")
    for speakers, row in enumerate(table.tolist(), start=1):
        print(f"| {speakers} | " + " | ".join(map(str, row)) + " |")
    print(f"\nright: {table.diagonal().sum() / table.sum():.1%}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "test", sys.argv[4:])
