"""Systems: compositions of front end, network, attractors, masks and objective. Papers are recipes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field, TypeAdapter

from unmingle.systems.base import Estimates, MaskingSystem, MaskSteps, System, SystemConfig
from unmingle.systems.denoiser import Denoiser, DenoiserConfig, DenoisingConfig, DenoisingSystem
from unmingle.systems.embedding_separator import EmbeddingSeparator, EmbeddingSeparatorConfig
from unmingle.systems.local_experts import LocalExperts, LocalExpertsConfig
from unmingle.systems.mask_inference import MaskInference, MaskInferenceConfig
from unmingle.systems.two_stage import TwoStage, TwoStageConfig

__all__ = [
    "SYSTEMS",
    "SYSTEM_CONFIG",
    "AnySystemConfig",
    "Denoiser",
    "DenoiserConfig",
    "DenoisingConfig",
    "DenoisingSystem",
    "EmbeddingSeparator",
    "EmbeddingSeparatorConfig",
    "Estimates",
    "LocalExperts",
    "LocalExpertsConfig",
    "MaskInference",
    "MaskInferenceConfig",
    "MaskSteps",
    "MaskingSystem",
    "System",
    "SystemConfig",
    "TwoStage",
    "TwoStageConfig",
    "build_system",
]

SYSTEMS: dict[type[SystemConfig], Callable[[Any], System]] = {
    EmbeddingSeparatorConfig: EmbeddingSeparator,
    MaskInferenceConfig: MaskInference,
    TwoStageConfig: TwoStage,
    DenoiserConfig: Denoiser,
    LocalExpertsConfig: LocalExperts,
}
"""All systems by their configs; what recipes and model files may hold follows."""

if TYPE_CHECKING:
    AnySystemConfig = SystemConfig
else:
    AnySystemConfig = Annotated[Union[tuple(SYSTEMS)], Field(discriminator="kind")]  # noqa: UP007
SYSTEM_CONFIG: TypeAdapter[SystemConfig] = TypeAdapter(AnySystemConfig)
"""Checks values, and makes the config of the right system of them."""


def build_system(config: SystemConfig) -> System:
    """A fresh system, with random weights, from its config."""
    return SYSTEMS[type(config)](config)
