"""Run exported models: systems whose networks run in onnxruntime.

A folder of :mod:`unmingle.export` becomes a system of the same kind, with the same methods. The Fourier transform,
clustering, counting and the choice of specialists are not in the graphs. They run in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from unmingle.attractors import FORMATIONS
from unmingle.errors import UnmingleError
from unmingle.exported_files import MODEL_JSON, OnnxGraph, graph_files, read_description, read_parameters
from unmingle.frontend import FrontEnd, LevelState, Spectra, StftConfig
from unmingle.networks import Lstm, LstmState
from unmingle.systems import (
    Denoiser,
    DenoiserConfig,
    DenoisingSystem,
    EmbeddingSeparator,
    EmbeddingSeparatorConfig,
    LocalExperts,
    LocalExpertsConfig,
    MaskInference,
    MaskInferenceConfig,
    System,
    SystemConfig,
    TwoStage,
    TwoStageConfig,
)
from unmingle.systems.base import MaskSteps
from unmingle.systems.gates import LstmGate, LstmGateConfig, SpecialistGate

FRAMES_AT_ONCE = 10_000
"""Maximum number of frames per call of the graph ``features``: its sums overflow double beyond 200,000."""


def load_exported(folder: Path) -> System:
    """The system of a folder with exported graphs, ready to separate. It runs on the processor.

    Raises:
        UnmingleError: onnxruntime is missing, or a file is missing or damaged.
    """
    config, _ = read_description(folder)
    return _EXPORTED[type(config)](config, folder).eval()


class _StftOnly(FrontEnd):
    """A front end of which only the Fourier transform is not in a graph."""

    def features(self, relative: Tensor) -> Tensor:
        raise UnmingleError(
            "An exported model computes its features inside a graph; load the model from which it was exported."
        )


def _check_unpadded(lengths: Tensor | None) -> None:
    if lengths is not None:
        raise UnmingleError("An exported model takes mixtures of one length; separate them one by one.")


class ExportedEmbeddingSeparator(EmbeddingSeparator):
    """One graph computes embeddings. Others compute attractors and masks, or PyTorch clusters the embeddings."""

    def __init__(self, config: EmbeddingSeparatorConfig, folder: Path) -> None:
        # The meta device needs no memory: the weights are in the graphs.
        with torch.device("meta"):
            super().__init__(config)
        self.frontend = _StftOnly(config.stft)
        self._embed = OnnxGraph(folder / "embed.onnx")
        found = {path.stem.removeprefix("masks_"): path for path in graph_files(folder)}
        self._graphs = {int(count): OnnxGraph(path) for count, path in found.items() if count.isdecimal()}
        if not self._graphs:
            self._read_clustering(folder)

    def _read_clustering(self, folder: Path) -> None:
        """Read a formation that is not in a graph, and the scale of the dot products with its attractors."""
        stored = {name: torch.tensor(value) for name, value in read_parameters(folder).items()}
        if self.config.learned_scale:
            self.log_scale = nn.Parameter(stored.pop("log_scale", torch.tensor(0.0)))
        formation = FORMATIONS[self.config.formation].build(self.config)
        if self.training_formation is self.formation:
            self.training_formation = formation
        self.formation = formation
        try:
            formation.load_state_dict(stored)
        except RuntimeError as error:
            raise UnmingleError(f"{folder / MODEL_JSON} is damaged; export the model again.") from error

    def most_speakers(self) -> int | None:
        most = super().most_speakers()
        if most is None or not self._graphs:
            return most
        return max(n for n in range(1, most + 1) if self.formed_attractors(n) in self._graphs)

    def embed(self, mixture: Tensor, lengths: Tensor | None = None) -> tuple[Spectra, Tensor]:
        _check_unpadded(lengths)
        spectra: Spectra = self.frontend(mixture)
        (embedding,) = self._embed("embedding", magnitude=spectra.magnitude)
        return spectra, embedding

    def steps(self, speakers: int) -> MaskSteps | None:
        return None  # The graph of the embeddings needs whole windows.

    def masks_of(
        self, embedding: Tensor, weight: Tensor, speakers: int, sources: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if not self._graphs:
            return super().masks_of(embedding, weight, speakers)
        if speakers not in self._graphs:
            known = ", ".join(map(str, sorted(self._graphs)))
            raise UnmingleError(
                f"This exported model separates {known} speakers, not {speakers}; load the original model."
            )
        masks, attractors = self._graphs[speakers]("masks", "attractors", embedding=embedding, weight=weight)
        return masks, attractors


class ExportedMaskInference(MaskInference):
    """One graph from magnitudes to masks."""

    def __init__(self, config: MaskInferenceConfig, folder: Path) -> None:
        with torch.device("meta"):
            super().__init__(config)
        self.frontend = _StftOnly(config.stft)
        self._graph = OnnxGraph(folder / "masks.onnx")

    def all_masks(self, spectra: Spectra, lengths: Tensor | None = None) -> Tensor:
        _check_unpadded(lengths)
        (masks,) = self._graph("masks", magnitude=spectra.magnitude)
        return masks


class ExportedTwoStage(TwoStage):
    """The graphs of the first system, and one for the refiner."""

    def __init__(self, config: TwoStageConfig, folder: Path) -> None:
        with torch.device("meta"):
            super().__init__(config)
        self.frontend = _StftOnly(config.stft)
        self.first = _EXPORTED[type(config.first)](config.first, folder)  # type: ignore[assignment]
        self._graph = OnnxGraph(folder / "refine.onnx")

    def refine(self, spectra: Spectra, masks: Tensor, lengths: Tensor | None = None) -> Tensor:
        _check_unpadded(lengths)
        (refined,) = self._graph("refined", magnitude=spectra.magnitude, masks=masks)
        return refined


class _RunningFrontEnd(FrontEnd):
    """The front end of denoisers. A graph computes its running level and its features."""

    def __init__(self, config: StftConfig, graph: OnnxGraph) -> None:
        super().__init__(config)
        self._graph = graph

    def relative(self, magnitude: Tensor, state: LevelState | None = None) -> Tensor:
        return magnitude  # The graph divides by the level.

    def features(self, relative: Tensor) -> Tensor:
        return self.step(relative, self.initial_state(len(relative)))

    def step(self, magnitude: Tensor, state: LevelState) -> Tensor:
        features = []
        for piece in torch.split(magnitude, FRAMES_AT_ONCE, dim=1):
            some, state.sums = self._graph("features", "sums_after", magnitude=piece, sums=state.sums)
            features.append(some)
        return torch.cat(features, dim=1)


class _RecurrentGraph(Lstm):
    """An LSTM whose step is a graph."""

    def use(self, graph: OnnxGraph, output: str) -> Self:
        """Use this graph, and its output of this name."""
        self._graph, self._output = graph, output
        return self

    def forward(self, features: Tensor) -> Tensor:
        return self.step(features, self.initial_state(len(features)))[0]

    def initial_state(self, batch: int) -> LstmState:
        zeros = torch.zeros(self.layers.num_layers, batch, self.layers.hidden_size)
        return zeros, zeros

    def step(self, features: Tensor, state: LstmState) -> tuple[Tensor, LstmState]:
        if not features.shape[1]:
            return features.new_zeros(*features.shape[:2], self._outputs), state
        h, c = state
        values, h, c = self._graph(self._output, "h_after", "c_after", features=features, h=h, c=c)
        return values, (h, c)


class _LstmGateGraph(_RecurrentGraph, LstmGate):
    """An LSTM gate that is a graph."""


class _SpecialistGateGraph(SpecialistGate):
    """A gate that uses a specialist's mask. A graph computes its scores."""

    def use(self, graph: OnnxGraph) -> Self:
        """Use this graph."""
        self._graph = graph
        return self

    def forward(self, evidence: Tensor) -> Tensor:
        (scores,) = self._graph("scores", evidence=evidence.reshape(-1, evidence.shape[-1]))
        return scores.reshape(*evidence.shape[:-1], -1)


class ExportedDenoiser(Denoiser):
    """A denoiser whose features and network are graphs."""

    def __init__(self, config: DenoiserConfig, folder: Path) -> None:
        with torch.device("meta"):
            super().__init__(config)
        self.frontend = _RunningFrontEnd(config.stft, OnnxGraph(folder / "features.onnx"))
        self.network = _expert(self, self.network, folder, 0)


class ExportedLocalExperts(LocalExperts):
    """Local experts. The features, the gate and each expert are graphs."""

    def __init__(self, config: LocalExpertsConfig, folder: Path) -> None:
        with torch.device("meta"):
            super().__init__(config)
        self.frontend = _RunningFrontEnd(config.stft, OnnxGraph(folder / "features.onnx"))
        self.specialists = nn.ModuleList(
            _expert(self, blank, folder, number) for number, blank in enumerate(self.experts)
        )
        scores, gate = OnnxGraph(folder / "gate.onnx"), config.gate
        if isinstance(gate, LstmGateConfig):
            with torch.device("meta"):
                blank = _LstmGateGraph(self.frontend.stft.freqs, config.specialists, gate)
            self.gate = blank.use(scores, "scores")
        else:
            listening = self.gate.listening_frames
            assert listening is not None
            chooser = _SpecialistGateGraph(config.snr_levels, gate, listening, config.sample_rate)
            self.gate = chooser.use(scores)


def _expert(system: DenoisingSystem, blank: Lstm, folder: Path, number: int) -> _RecurrentGraph:
    freqs = system.frontend.stft.freqs
    with torch.device("meta"):
        expert = _RecurrentGraph(freqs, freqs, system.config.network, blank.bands)
    return expert.use(OnnxGraph(folder / f"expert_{number}.onnx"), "logits")


_EXPORTED: dict[type[SystemConfig], Callable[[Any, Path], System]] = {
    EmbeddingSeparatorConfig: ExportedEmbeddingSeparator,
    MaskInferenceConfig: ExportedMaskInference,
    TwoStageConfig: ExportedTwoStage,
    DenoiserConfig: ExportedDenoiser,
    LocalExpertsConfig: ExportedLocalExperts,
}
"""The class of a folder's system, by the config in its ``model.json``."""
