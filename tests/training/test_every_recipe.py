"""Every recipe trains, saves, loads and separates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training_runs import RECIPES, recipe_id
from unmingle.models import ModelFacts, load_system
from unmingle.systems import (
    EmbeddingSeparatorConfig,
    LocalExpertsConfig,
    MaskingSystem,
    SystemConfig,
    TwoStageConfig,
    build_system,
)
from unmingle.systems.gates import SpecialistGate
from unmingle.training.launch import train
from unmingle.training.loop import Options
from unmingle.training.recipe import Recipe, read_recipe, shrink
from unmingle.training.run_folder import RunFolder

TRAINED: set[str] = set()
"""The small runs that came before. Recipes that differ only in sizes have the same small run, which is done once."""


def _small_run(path: Path, corpus: Path, noise: Path) -> Recipe:
    """Two steps of every stage, on ``corpus`` and ``noise``."""
    recipe = shrink(read_recipe(path))
    mixing: dict[str, object] = {"corpus_weights": {}}
    if recipe.mixing.room is not None:
        mixing["room"] = recipe.mixing.room.model_copy(update={"bank": 2})
    if recipe.mixing.noise is not None:
        mixing["noise"] = recipe.mixing.noise.model_copy(update={"weights": {"noise": 1.0, "babble": 1.0}})
    changes: dict[str, object] = {
        "name": "small",
        "facts": ModelFacts(),
        "data": [str(corpus)],
        "noise_data": [str(noise)],
        "mixing": recipe.mixing.model_copy(update=mixing),
    }
    if isinstance(recipe.system, LocalExpertsConfig):
        # So soft a gate gives every specialist a share of these few mixtures.
        changes["system"] = recipe.system.model_copy(update={"sharpness": 0.1})
    if {stage.part for stage in recipe.stages} == {"apart"}:
        # Each specialist needs mixtures of its own.
        changes["stages"] = [stage.model_copy(update={"batch_size": 40}) for stage in recipe.stages]
    return recipe.model_copy(update=changes)


def _is_trained(name: str, system: MaskingSystem, parts: set[str]) -> bool:
    """Whether a run whose stages train ``parts`` changes the parameter ``name``."""
    if name.startswith("refiner."):
        return parts != {"first"}
    if name.startswith("first."):
        return parts != {"second"}
    if name.startswith("specialists."):
        return not parts <= {"gate", "choice"}
    if name.startswith("gate.") and isinstance(getattr(system, "gate", None), SpecialistGate):
        # A gate that is a specialist learns by choice, or with all.
        return parts != {"apart"}
    return True


def _adds_up(config: SystemConfig) -> bool:
    """Whether the masks sum to one."""
    if isinstance(config, TwoStageConfig):
        return config.refiner == "enhancement"
    return isinstance(config, EmbeddingSeparatorConfig) and config.mask not in (
        "sigmoid",
        "softmax_with_rest",
    )


@pytest.mark.parametrize("path", RECIPES, ids=recipe_id)
def test_every_recipe_trains_saves_loads_and_separates(
    path: Path, crowd_corpus: Path, example_noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _small_run(path, crowd_corpus, example_noise)
    if (run := recipe.model_dump_json()) in TRAINED:
        return
    # The curve takes half of the time; test_loop.py draws one.
    monkeypatch.setattr(RunFolder, "draw_curve", lambda self: None)
    torch.manual_seed(recipe.seed)
    before = build_system(recipe.system)
    assert isinstance(before, MaskingSystem)
    progress = train(recipe, tmp_path / "run", Options(workers=0))
    assert progress.total_steps == 2 * len(recipe.stages)
    assert progress.best > -60.0
    state = RunFolder(tmp_path / "run").load()[0]["system"]
    parts = {stage.part for stage in recipe.stages}
    for name, parameter in before.named_parameters():
        # A bias before batch norm has no effect, and anchors none on an affinity.
        if parameter.ndim > 1 and _is_trained(name, before, parts):
            assert not torch.equal(state[name], parameter), f"{name} was not trained"
    assert all(bool(value.isfinite().all()) for value in state.values())
    system = load_system(tmp_path / "run" / "last.safetensors")
    assert isinstance(system, MaskingSystem)
    mixture = torch.randn(1, 4000)
    estimates = system.separate(mixture, system.speakers).sources
    assert estimates.shape == (1, recipe.system.speakers, 4000)
    assert estimates.isfinite().all()
    if _adds_up(recipe.system):
        torch.testing.assert_close(estimates.sum(dim=1), mixture, atol=1e-3, rtol=0)
    TRAINED.add(run)
