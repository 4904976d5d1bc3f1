"""Run exported models: systems like any other, whose networks run in onnxruntime.

A folder that :mod:`unmingle.export` wrote becomes a system of the same kind, with the same doors. What is no graph,
the Fourier transform, clustering, counting and choosing, runs in PyTorch as always.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from unmingle.attractors import FORMATIONS
from unmingle.errors import UnmingleError
from unmingle.frontend import FrontEnd, LevelState, Spectra, StftConfig
from unmingle.networks import Lstm, LstmState
from unmingle.systems import (
    SYSTEM_CONFIG,
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

FORMAT_VERSION = "1"
MODEL_JSON = "model.json"
GRAPHS = {
    "embed": "magnitudes to an embedding of every bin, and which bins form attractors",
    "masks": "masks of the sources; from embeddings also their attractors",
    "refine": "better masks from the masks of the first stage",
    "features": "some more frames relative to the running level; sums are its state, zero at first",
    "expert": "the mask of some more frames; h and c are its state, zero at first",
    "gate": "scores of the experts; the highest is chosen",
}
"""The graphs, by the beginning of their files' names."""
FRAMES_AT_ONCE = 10_000
"""Of the running level; its sums would leave the range of double beyond 200,000."""


class Graph:
    """One ONNX graph, called with named tensors on the processor.

    Raises:
        UnmingleError: onnxruntime is not installed, or the file is no graph.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UnmingleError(
                "An exported model needs onnxruntime; install with: pip install 'unmingle[onnx]'"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that wait must not spin: beside other busy programs they slow everything down.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            content = path.read_bytes()
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except OSError as error:
            raise UnmingleError(f"{path} cannot be read; export the model again.") from error
        except Exception as error:  # onnxruntime has an error class for each of its reasons.
            raise UnmingleError(
                f"{path} is damaged, or not for this onnxruntime; export it again."
            ) from error

    def __call__(self, *outputs: str, **inputs: Tensor) -> list[Tensor]:
        """The named outputs. Inputs that a graph has no use for are not among its inputs, and may be given."""
        wanted = (each.name for each in self._session.get_inputs())
        given = {name: np.ascontiguousarray(inputs[name].detach().cpu().numpy()) for name in wanted}
        return [torch.from_numpy(value) for value in self._session.run(list(outputs), given)]


def read_description(folder: Path) -> tuple[SystemConfig, dict[str, Any]]:
    """Config and facts of an exported model.

    Raises:
        UnmingleError: ``model.json`` is damaged, or of another release.
    """
    described = _read(folder)
    try:
        return SYSTEM_CONFIG.validate_python(described["config"]), dict(described["facts"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnmingleError(f"{folder / MODEL_JSON} is damaged; export the model again.") from error


def graph_files(folder: Path) -> list[Path]:
    """The graphs of an exported model. The folder may hold others, of an earlier export.

    Raises:
        UnmingleError: ``model.json`` is damaged, or of another release.
    """
    return [folder / Path(name).name for name in sorted(_read(folder)["graphs"])]


def _read(folder: Path) -> dict[str, Any]:
    path = folder / MODEL_JSON
    try:
        described = dict(json.loads(path.read_text(encoding="utf-8")))
        version, _ = described["format_version"], dict(described["graphs"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnmingleError(f"{path} is damaged; export the model again.") from error
    if version != FORMAT_VERSION:
        raise UnmingleError(
            f"{path} has format {version!r}, this release reads {FORMAT_VERSION!r}; export the model again."
        )
    return described


def load_exported(folder: Path) -> System:
    """The system of a folder with exported graphs, ready to separate; it runs on the processor.

    Raises:
        UnmingleError: onnxruntime is missing, or a file is missing or damaged.
    """
    config, _ = read_description(folder)
    return _EXPORTED[type(config)](config, folder).eval()


class _StftOnly(FrontEnd):
    """The front end where a graph holds all of it but the Fourier transform."""

    def features(self, relative: Tensor) -> Tensor:
        raise UnmingleError(
            "An exported model's features are inside its graph; load the model it was made from."
        )


def _check_unpadded(lengths: Tensor | None) -> None:
    if lengths is not None:
        raise UnmingleError("An exported model takes mixtures of one length; separate them one by one.")


class ExportedEmbeddingSeparator(EmbeddingSeparator):
    """Embeds in a graph; forms attractors and masks in others, or clusters in PyTorch."""

    def __init__(self, config: EmbeddingSeparatorConfig, folder: Path) -> None:
        # Sizes without memory: weights are in the graphs.
        with torch.device("meta"):
            super().__init__(config)
        self.frontend = _StftOnly(config.stft)
        self._embed = Graph(folder / "embed.onnx")
        found = {path.stem.removeprefix("masks_"): path for path in graph_files(folder)}
        self._graphs = {int(count): Graph(path) for count, path in found.items() if count.isdecimal()}
        if not self._graphs:
            self._read_clustering(folder)

    def _read_clustering(self, folder: Path) -> None:
        """A formation that is no graph, and the scale of the dot products with its attractors."""
        stored = {name: torch.tensor(value) for name, value in _read(folder).get("parameters", {}).items()}
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
        return None  # Graphs of embeddings take whole windows.

    def masks_of(
        self, embedding: Tensor, weight: Tensor, speakers: int, sources: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if not self._graphs:
            return super().masks_of(embedding, weight, speakers)
        if speakers not in self._graphs:
            raise UnmingleError(f"This model was not exported for {speakers} speakers.")
        masks, attractors = self._graphs[speakers]("masks", "attractors", embedding=embedding, weight=weight)
        return masks, attractors


class ExportedMaskInference(MaskInference):
    """Its network, with all before and after it, is one graph."""

    def __init__(self, config: MaskInferenceConfig, folder: Path) -> None:
        with torch.device("meta"):
            super().__init__(config)
        self.frontend = _StftOnly(config.stft)
        self._graph = Graph(folder / "masks.onnx")

    def all_masks(self, spectra: Spectra, lengths: Tensor | None = None) -> Tensor:
        _check_unpadded(lengths)
        (masks,) = self._graph("masks", magnitude=spectra.magnitude)
        return masks


class ExportedTwoStage(TwoStage):
    """The first system's graphs, and one for the refiner."""

    def __init__(self, config: TwoStageConfig, folder: Path) -> None:
        with torch.device("meta"):
            super().__init__(config)
        self.frontend = _StftOnly(config.stft)
        self.first = _EXPORTED[type(config.first)](config.first, folder)  # type: ignore[assignment]
        self._graph = Graph(folder / "refine.onnx")

    def refine(self, spectra: Spectra, masks: Tensor, lengths: Tensor | None = None) -> Tensor:
        _check_unpadded(lengths)
        (refined,) = self._graph("refined", magnitude=spectra.magnitude, masks=masks)
        return refined


class _RunningFrontEnd(FrontEnd):
    """The front end of denoisers: its running level and its features are a graph."""

    def __init__(self, config: StftConfig, graph: Graph) -> None:
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
    """An LSTM that is a graph of a step with its states."""

    def use(self, graph: Graph, output: str) -> Self:
        """Run in ``graph`` from now on."""
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
    """The gate that judges a specialist's mask; its scores are a graph."""

    def use(self, graph: Graph) -> Self:
        """Score by ``graph`` from now on."""
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
        self.frontend = _RunningFrontEnd(config.stft, Graph(folder / "features.onnx"))
        self.network = _expert(self, self.network, folder, 0)


class ExportedLocalExperts(LocalExperts):
    """Local experts; each, the gate and the features are graphs."""

    def __init__(self, config: LocalExpertsConfig, folder: Path) -> None:
        with torch.device("meta"):
            super().__init__(config)
        self.frontend = _RunningFrontEnd(config.stft, Graph(folder / "features.onnx"))
        self.specialists = nn.ModuleList(
            _expert(self, blank, folder, number) for number, blank in enumerate(self.experts)
        )
        scores, gate = Graph(folder / "gate.onnx"), config.gate
        if isinstance(gate, LstmGateConfig):
            with torch.device("meta"):
                blank = _LstmGateGraph(self.frontend.stft.freqs, config.specialists, gate)
            self.gate = blank.use(scores, "scores")
        else:
            listening = self.gate.listening_frames
            assert listening is not None
            self.gate = _SpecialistGateGraph(config.snr_levels, gate, listening).use(scores)


def _expert(system: DenoisingSystem, blank: Lstm, folder: Path, number: int) -> _RecurrentGraph:
    freqs = system.frontend.stft.freqs
    with torch.device("meta"):
        expert = _RecurrentGraph(freqs, freqs, system.config.network, blank.bands)
    return expert.use(Graph(folder / f"expert_{number}.onnx"), "logits")


_EXPORTED: dict[type[SystemConfig], Callable[[Any, Path], System]] = {
    EmbeddingSeparatorConfig: ExportedEmbeddingSeparator,
    MaskInferenceConfig: ExportedMaskInference,
    TwoStageConfig: ExportedTwoStage,
    DenoiserConfig: ExportedDenoiser,
    LocalExpertsConfig: ExportedLocalExperts,
}
"""What a folder becomes, by the config in its ``model.json``."""
