"""What a recipe cannot train is refused with a sentence; what it can is not."""

from __future__ import annotations

import pytest

from unmingle.systems.embedding_separator import EmbeddingSeparatorConfig


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"training_formation": "oracle", "formation": "oracle"}, "formation must not be oracle"),
        ({"training_formation": "oracle", "formation": "anchored"}, "needs training_formation anchored"),
        ({"objective": "affinity", "formation": "anchored"}, "needs training_formation anchored"),
        (
            {"training_formation": "kmeans", "formation": "kmeans", "mask": "assignment"},
            "mask assignment gives no gradient with training_formation kmeans",
        ),
        (
            {"training_formation": "kmeans", "formation": "kmeans", "fewest_speakers": 1},
            "kmeans in training cannot know a number of speakers that varies",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(settings: dict[str, object], told: str) -> None:
    config = EmbeddingSeparatorConfig.model_validate(settings)
    with pytest.raises(ValueError, match=told):
        config.check_trainable()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"fewest_speakers": 1},
        {"training_formation": "oracle", "formation": "kmeans"},
        {"training_formation": "oracle", "formation": "kmeans", "fewest_speakers": 1},
        {"training_formation": "kmeans", "formation": "kmeans"},
        {"training_formation": "anchored", "formation": "kmeans", "mask": "assignment"},
        {
            "objective": "affinity",
            "training_formation": "oracle",
            "formation": "kmeans",
            "mask": "assignment",
        },
        {
            "objective": "affinity",
            "training_formation": "kmeans",
            "formation": "kmeans",
            "fewest_speakers": 1,
        },
    ],
)
def test_what_can_be_trained_is_not_refused(settings: dict[str, object]) -> None:
    EmbeddingSeparatorConfig.model_validate(settings).check_trainable()
