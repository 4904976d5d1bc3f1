"""Systems: compositions of front end, network, attractors, masks and objective. Papers are recipes."""

from typing import Annotated

from pydantic import Field

from unmingle.systems.base import Estimates, MaskingSystem, System, SystemConfig
from unmingle.systems.denoiser import Denoiser, DenoiserConfig, DenoisingConfig, DenoisingSystem
from unmingle.systems.embedding_separator import EmbeddingSeparator, EmbeddingSeparatorConfig
from unmingle.systems.local_experts import LocalExperts, LocalExpertsConfig
from unmingle.systems.mask_inference import MaskInference, MaskInferenceConfig
from unmingle.systems.two_stage import TwoStage, TwoStageConfig

__all__ = [
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
    "MaskingSystem",
    "System",
    "SystemConfig",
    "TwoStage",
    "TwoStageConfig",
    "build_system",
]

AnySystemConfig = Annotated[
    EmbeddingSeparatorConfig | MaskInferenceConfig | TwoStageConfig | DenoiserConfig | LocalExpertsConfig,
    Field(discriminator="kind"),
]


def build_system(config: SystemConfig) -> System:
    """A fresh system, with random weights, from its config."""
    match config:
        case EmbeddingSeparatorConfig():
            return EmbeddingSeparator(config)
        case MaskInferenceConfig():
            return MaskInference(config)
        case TwoStageConfig():
            return TwoStage(config)
        case DenoiserConfig():
            return Denoiser(config)
        case LocalExpertsConfig():
            return LocalExperts(config)
    raise TypeError(f"there is no system for {type(config).__name__}")
