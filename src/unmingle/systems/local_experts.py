"""A sparse mixture of local experts (Sivaraman & Kim 2020): a gate chooses one of several small denoisers.

Each specialist is trained for one part of a latent space. The gate estimates this part from the mixture. At test time
only the chosen specialist runs, so the cost is that of one small network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, cross_entropy

from unmingle.batch import GENDERS, MixtureBatch
from unmingle.clustering import kmeans
from unmingle.errors import UnmingleError
from unmingle.frontend import Spectra
from unmingle.networks import Lstm
from unmingle.systems.denoiser import DenoisingConfig, DenoisingSystem
from unmingle.systems.gate_base import Begun, Gate
from unmingle.systems.gates import AnyGateConfig, LstmGateConfig, build_gate

_BANDS = 32
"""Number of bands in the features of the latent space ``spectrum``."""
_LEAST_SHARE = 0.01
"""Minimum weight of the soft gate: in joint training, specialists with less do not run on a mixture."""


class LocalExpertsConfig(DenoisingConfig):
    """Config of a sparse mixture of local experts. ``network`` is that of each specialist."""

    trainable_parts: ClassVar[tuple[str, ...]] = ("all", "apart", "gate", "choice")
    """See :class:`LocalExperts`."""
    kind: Literal["local_experts"] = "local_experts"
    latent: Literal["snr", "gender", "spectrum"] = "snr"
    """The property of mixtures by which the specialists are divided. ``snr``: the nearest of ``snr_levels``.
    ``gender``: of the speaker, two specialists. ``spectrum`` (ours, needs no labels): clusters of mixtures by mean
    and standard deviation of their features in bands."""
    snr_levels: list[float] = Field([-5.0, 0.0, 5.0, 10.0], min_length=2, max_length=64)
    clusters: int = Field(4, ge=2, le=64)
    """Number of specialists for the latent space ``spectrum``."""
    gate: AnyGateConfig = LstmGateConfig(layers=2, hidden_size=128)
    """The paper's LSTM, which averages scores over the utterance; or, for ``snr``, one of the specialists (ours)."""
    sharpness: float = Field(10.0, gt=0.0)
    """The paper's lambda in the softmax of joint training (Eq. 5). The larger, the closer the gate is to one-hot."""
    default_expert: int | None = Field(None, ge=0)
    """Number of the first specialist of a stream (default: the one that is the gate, or the middle one)."""

    @property
    def specialists(self) -> int:
        """K, their number."""
        return {"snr": len(self.snr_levels), "gender": 2, "spectrum": self.clusters}[self.latent]

    @model_validator(mode="after")
    def _default_is_there(self) -> LocalExpertsConfig:
        if self.default_expert is not None and self.default_expert >= self.specialists:
            raise ValueError(f"default_expert must be below {self.specialists}, got {self.default_expert}")
        if self.gate.specialist is not None:
            if self.latent != "snr":
                raise ValueError(
                    f"a specialist as gate estimates the SNR, not the {self.latent}; give an LSTM's sizes"
                )
            if self.gate.specialist >= self.specialists:
                raise ValueError(f"the gate's specialist must be below {self.specialists}")
        return self


class LocalExperts(DenoisingSystem):
    """K specialists and a gate.

    The parts that can be trained are:

    - ``apart``: each specialist minimizes the objective on the mixtures of its part of the latent space. A gate with
      its own network minimizes the cross-entropy of its choice (the paper has the binary one of a softmax).
    - ``gate``: the gate alone minimizes this cross-entropy.
    - ``choice`` (ours): the gate alone minimizes the expected objective of a specialist drawn from the soft gate
      (Eq. 5). So a wrong choice counts by its cost; for the cross-entropy all wrong choices are equal.
    - ``all``: joint training. The estimate is a sum of all specialists' estimates. Their weights are a softmax of
      ``sharpness`` times the gate's scores (Eq. 4 and 5), and all networks with a weight of at least
      0.01 get a gradient.
    """

    statistics_mixtures = 400
    gate: Gate
    centres: Tensor

    def __init__(self, config: LocalExpertsConfig) -> None:
        super().__init__(config)
        self.specialists = nn.ModuleList(self.build_expert() for _ in range(config.specialists))
        self.gate = build_gate(
            config.gate,
            self.frontend.stft.freqs,
            config.specialists,
            config.snr_levels,
            self._listening_frames,
            config.sample_rate,
        )
        usual = config.specialists // 2 if self.gate.specialist is None else self.gate.specialist
        self.default_expert = usual if config.default_expert is None else config.default_expert
        if config.latent == "spectrum":
            self.register_buffer("centres", torch.zeros(config.clusters, 2 * _BANDS))

    @property
    def config(self) -> LocalExpertsConfig:
        return cast(LocalExpertsConfig, self._config)

    def _listening_frames(self, seconds: float) -> int:
        """Number of frames in ``seconds``, plus the prelude."""
        return self.prelude_frames + max(1, round(seconds * self.sample_rate / self.hop))

    @property
    def experts(self) -> Sequence[Lstm]:
        return cast(list[Lstm], list(self.specialists))

    def fit(self, mixtures: Tensor) -> None:
        super().fit(mixtures)
        self.fit_clusters(mixtures)

    def fit_clusters(self, mixtures: Tensor) -> None:
        """Find the clusters of the latent space ``spectrum`` from ``mixtures`` ``(batch, samples)``."""
        if self.config.latent == "spectrum":
            profiles = band_profile(self.frontend(mixtures).features)
            generator = torch.Generator().manual_seed(0)
            _, centres = kmeans(
                profiles, profiles.new_ones(len(profiles)), self.config.clusters, generator=generator
            )
            self.centres.copy_(centres)

    def labels(self, batch: MixtureBatch, spectra: Spectra) -> Tensor:
        """The specialist of each mixture, ``(batch,)``; -1 if unknown.

        Raises:
            UnmingleError: the batch has no labels for the latent space.
        """
        if self.config.latent == "spectrum":
            return torch.cdist(band_profile(spectra.features), self.centres).argmin(dim=1)
        if self.config.latent == "gender" and batch.gender is not None:
            return torch.where(batch.gender == GENDERS.index("unknown"), -1, batch.gender)
        if self.config.latent == "snr" and batch.snr is not None:
            levels = batch.snr.new_tensor(self.config.snr_levels)
            return (batch.snr[:, None] - levels).abs().argmin(dim=1)
        raise UnmingleError(
            f"The data does not state the {self.config.latent} of a mixture, which decides its specialist; give "
            "noise and speech with --data, or choose the latent space spectrum."
        )

    def score(
        self,
        features: Tensor,
        magnitude: Tensor,
        frames: Tensor | None = None,
        outputs: Tensor | None = None,
    ) -> Tensor:
        """The gate's score of every specialist for each utterance, before the softmax: ``(batch, K)``.

        Args:
            features: of the mixtures, ``(batch, frames, freqs)``.
            magnitude: of the mixtures, of the same shape.
            frames: ``(batch,)``, the number of frames that are not padding (default: all).
            outputs: of the network that the gate uses, if known; see
                :meth:`~unmingle.systems.gate_base.Gate.score`.
        """
        if outputs is None:
            outputs = self._gate_outputs(features[:, : self.gate.listening_frames])
        return self.gate.score(outputs, magnitude, frames)

    def _gate_outputs(self, features: Tensor) -> Tensor:
        """Outputs of the network that the gate uses, for all frames."""
        # Specialists are fixed while the gate is trained alone.
        learns = self.gate.specialist is None or self._part == "all"
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            return self.gate.outputs(self.gate.network(self.experts)(features))

    def mask(
        self, mixture: Tensor, speakers: int, lengths: Tensor | None = None, sources: Tensor | None = None
    ) -> tuple[Spectra, Tensor]:
        spectra: Spectra = self.frontend(mixture)
        features, magnitude, frames = self.with_prelude(spectra, lengths)
        decision = self.gate.decide(features, magnitude, self.experts, frames)
        return spectra, self.masks_of(features, *decision)[:, :, self.prelude_frames :]

    def masks_of(self, features: Tensor, choice: Tensor, begun: Begun | None = None) -> Tensor:
        """The masks ``(batch, 1, frames, freqs)`` of the specialists ``choice`` ``(batch,)``.

        Each specialist runs only on its own utterances; -1 gives a mask of zeros. The specialist that is the gate
        continues from ``begun``.
        """
        order, masks = choice.argsort(), []
        for number in sorted(set(choice.tolist())):
            mine = order[choice[order] == number]
            if number >= 0 and begun is not None and number == self.gate.specialist:
                masks.append(self._continued(number, features[mine], begun, mine))
            elif number >= 0:
                masks.append(torch.sigmoid(self.specialists[number](features[mine]).float()))
            else:
                masks.append(torch.zeros_like(features[mine]))
        return torch.cat(masks)[order.argsort()].unsqueeze(1)

    def _continued(self, number: int, features: Tensor, begun: Begun, mine: Tensor) -> Tensor:
        done, state = begun.mask[mine], (begun.state[0][:, mine], begun.state[1][:, mine])
        values, _ = self.experts[number].step(features[:, done.shape[1] :], state)
        return torch.cat([done, torch.sigmoid(values.float())], dim=1)

    def loss(self, batch: MixtureBatch) -> dict[str, Tensor]:
        spectra: Spectra = self.frontend(batch.mixture)
        if self._part == "choice":
            return self._loss_of_choice(spectra, batch)
        return self._loss(spectra, batch) if self._part == "all" else self._loss_apart(spectra, batch)

    def _loss_of_choice(self, spectra: Spectra, batch: MixtureBatch) -> dict[str, Tensor]:
        features, magnitude, _ = self.with_prelude(spectra)
        with torch.no_grad():
            masks = [torch.sigmoid(expert(features).float()) for expert in self.experts]
            after = [mask[:, self.prelude_frames :].unsqueeze(1) for mask in masks]
            errors = torch.stack([self.objective(spectra, mask, batch) for mask in after], dim=1)
        known = None if self.gate.specialist is None else masks[self.gate.specialist]
        scores = self.score(features, magnitude, outputs=known)
        shares = torch.softmax(self.config.sharpness * scores, dim=1)
        return {"loss": (shares * self.gate.with_margin(errors)).sum(dim=1).mean()}

    def _loss_apart(self, spectra: Spectra, batch: MixtureBatch) -> dict[str, Tensor]:
        labels = self.labels(batch, spectra)
        known = (labels >= 0).float()
        if not known.any():
            raise UnmingleError(
                f"No mixture of a batch has a known {self.config.latent}, which decides its specialist; give "
                "data that states it, or choose the latent space spectrum."
            )

        def mean(values: Tensor) -> Tensor:
            return (values * known).sum() / known.sum().clamp_min(1)

        features, magnitude, _ = self.with_prelude(spectra)
        losses = {}
        # A specialist that is the gate is not trained here: it would run on all mixtures for a dozen parameters.
        if self._part == "gate" or self.gate.specialist is None:
            scores = self.score(features, magnitude)
            losses["gate"] = mean(cross_entropy(scores, labels.clamp_min(0), reduction="none"))
        if self._part == "apart":
            masks = self.masks_of(features, labels)[:, :, self.prelude_frames :]
            losses["specialists"] = mean(self.objective(spectra, masks, batch))
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def _loss(self, spectra: Spectra, batch: MixtureBatch) -> dict[str, Tensor]:
        features, magnitude, _ = self.with_prelude(spectra)
        # A specialist that is the gate runs on all mixtures anyway.
        known = None if self.gate.specialist is None else self._gate_outputs(features)
        scores = self.score(features, magnitude, outputs=known)
        shares = torch.softmax(self.config.sharpness * scores, dim=1)
        # A sharp gate has few weights that matter. The other specialists need not run.
        shares = shares * (shares >= _LEAST_SHARE)
        shares = shares / shares.sum(dim=1, keepdim=True)
        # Synthesis is linear, so a weighted sum of masks gives the weighted sum of estimates.
        masks = torch.zeros_like(features)
        for number, share in enumerate(shares.unbind(dim=1)):
            mine = share.nonzero()[:, 0]
            if len(mine):
                if known is not None and number == self.gate.specialist:
                    mask = known[mine]
                else:
                    mask = torch.sigmoid(self.experts[number](features[mine]).float())
                masks = masks.index_add(0, mine, share[mine, None, None] * mask)
        masks = masks[:, self.prelude_frames :].unsqueeze(1)
        return {"loss": self.objective(spectra, masks, batch).mean()}

    def multiply_accumulates(self, seconds: float, choice: int | None = None) -> int:
        """Of the gate and one specialist: ``choice``, or the most expensive choice."""
        frames = self.processed_frames(seconds)
        expert = self.experts[0]
        return expert.multiply_accumulates(frames) + self.gate.listening_cost(frames, expert, choice)

    def active_parameter_count(self) -> int:
        """Of the gate and one specialist. If the gate is a specialist: of two specialists."""
        expert = self.experts[0]
        return sum(p.numel() for p in expert.parameters()) + self.gate.active_parameters(expert)


def band_profile(features: Tensor) -> Tensor:
    """Mean and standard deviation over time of features ``(batch, frames, freqs)``: ``(batch, 2 * bands)``."""
    bands = adaptive_avg_pool1d(features, _BANDS)
    return torch.cat([bands.mean(dim=1), bands.std(dim=1)], dim=1)
