"""Assign the sources of windows to speakers, for recordings and for streams.

Two measures are used. Where windows overlap, masks of the same speaker agree. And a speaker's attractor is at a
similar place in every window, so attractors recognize a speaker after minutes of silence. Two sources of one window
are always two speakers.

Offline, all windows are known. Their assignment is the most likely path through the permutations of the windows
(Viterbi), given the positions of the speakers' attractors. Assignment and positions are found in turn, like members
and centres in k-means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

_ITERATIONS = 10
_DOUBT = 0.02
"""The agreement of masks is at most 1 minus this, so that a single overlap cannot outweigh all other evidence."""
_AUDIBLE = 1e-3
"""Share of the recording's energy per frame below which an overlap counts less."""
_LEAST_MOVE = 0.02
"""In a stream, the minimum share by which a speaker's attractor moves towards that of a window."""
_PRESENT = 1e-2
"""Maximum energy relative to the window's loudest source of a source that is not a speaker: -20 dB."""


@dataclass(frozen=True)
class WindowSources:
    """The evidence of one window about its sources."""

    power: NDArray[np.floating]
    """``(sources, frames)``: energy of each source in each frame."""
    attractors: NDArray[np.floating] | None
    """``(sources, dim)``; None for systems without attractors."""
    agreement: NDArray[np.floating] | None
    """:func:`overlap_agreement` with the window before; None for the first."""


@dataclass(frozen=True)
class Assignment:
    """The speakers of the sources in all windows."""

    speakers: list[NDArray[np.intp]]
    """For each window, the speaker of each source: ``(sources,)``."""
    confidence: float
    """Share of the windows' energy with a confident assignment, 0 to 1."""


def overlap_agreement(before: Tensor, after: Tensor, magnitude: Tensor) -> NDArray[np.float64]:
    """Energy that two windows assign to each pair of their sources, in their common frames.

    Args:
        before: masks of the earlier window in these frames, ``(sources, frames, freqs)``.
        after: masks of the later window, of the same shape.
        magnitude: of the mixture, ``(frames, freqs)``.

    Returns:
        ``(sources, sources)``: rows are the earlier window's sources.
    """
    energy = magnitude.square()
    shared = torch.einsum("itf,jtf,tf->ij", before, after, energy)
    found: NDArray[np.float64] = shared.double().cpu().numpy()
    return found


def padded(window: WindowSources, sources: int) -> WindowSources:
    """The same window with silent sources added at the end, up to the number of other windows."""
    missing = sources - len(window.power)
    if missing == 0:
        return window
    below = ((0, missing), (0, 0))
    attractors = None if window.attractors is None else np.pad(window.attractors, below)
    return WindowSources(np.pad(window.power, below), attractors, window.agreement)


def assign_speakers(windows: Sequence[WindowSources]) -> Assignment:
    """The speaker of every source of every window. There are as many speakers as sources in a window.

    Args:
        windows: in order; all with as many sources.
    """
    sources = len(windows[0].power)
    orders = np.array(list(permutations(range(sources))))
    links = _links(windows, orders)
    possible = _possible(windows, orders)
    presence = np.stack([_presence(window) for window in windows])
    if any(window.attractors is None for window in windows):
        states, score = best_path(possible, links)
        return Assignment([orders[state] for state in states], _certainty(score, windows))
    attractors = np.stack([np.asarray(window.attractors, dtype=np.float64) for window in windows])
    starts = [
        best_path(possible, links)[0],  # By overlaps alone;
        np.zeros(len(windows), dtype=np.intp),  # and by the order in which attractors come.
    ]
    best: tuple[float, NDArray[np.intp], Array] | None = None
    for states in starts:
        for _ in range(_ITERATIONS):
            fits = possible + _fits(attractors, presence, states, orders)
            following, margins = best_path(fits, links)
            if (following == states).all():
                break
            states = following
        total = _total(_fits(attractors, presence, states, orders), links, states)
        if best is None or total > best[0]:
            best = total, states, margins
    assert best is not None
    return Assignment([orders[state] for state in best[1]], _certainty(best[2], windows))


def _possible(windows: Sequence[WindowSources], orders: NDArray[np.intp]) -> Array:
    """0 for every window's possible orders, minus infinity for the others: ``(windows, orders)``.

    The order of a window's silent sources does not matter, so only one is possible.
    """
    possible = np.zeros((len(windows), len(orders)))
    for row, window in zip(possible, windows, strict=True):
        silent = orders[:, ~np.asarray(window.power).any(axis=1)]
        row[(np.diff(silent, axis=1) < 0).any(axis=1)] = -np.inf
    return possible


def _presence(window: WindowSources) -> Array:
    """Weight of each source's attractor, 0 to 1: its energy relative to the window's loudest source."""
    energy: Array = np.asarray(window.power, dtype=np.float64).sum(axis=1)
    relative: Array = energy / max(float(energy.max()), 1e-30)
    return np.minimum(relative / (10 * _PRESENT), 1.0)


def _links(windows: Sequence[WindowSources], orders: NDArray[np.intp]) -> Array:
    """Log-likelihood of every pair of neighbouring windows' orders: ``(windows - 1, orders, orders)``."""
    mean = float(np.mean([np.asarray(window.power).sum(axis=0).mean() for window in windows]))
    frames = windows[0].power.shape[1]
    links = np.zeros((len(windows) - 1, len(orders), len(orders)))
    for number, window in enumerate(windows[1:]):
        assert window.agreement is not None
        agreement = np.zeros((len(window.power), len(window.power)))
        rows, columns = window.agreement.shape
        # Silent sources have no masks, and agree with none.
        agreement[:rows, :columns] = window.agreement
        for i, earlier in enumerate(orders):
            for j, later in enumerate(orders):
                links[number, i, j] = _link(agreement, earlier, later, mean * frames)
    return links


def _link(agreement: Array, earlier: NDArray[np.intp], later: NDArray[np.intp], usual: float) -> float:
    """Log-likelihood of two neighbouring windows' orders from their :func:`overlap_agreement`.

    An overlap with far less energy than ``usual`` counts less.
    """
    total = max(float(agreement.sum()), 1e-30)
    audible = min(1.0, total / max(_AUDIBLE * usual, 1e-30))
    # Sources are one speaker's if their orders give them one number.
    same = earlier[:, None] == later[None, :]
    share = float(agreement[same].sum()) / total
    return audible * float(np.log(_DOUBT + (1 - 2 * _DOUBT) * share))


def _fits(attractors: Array, presence: Array, states: NDArray[np.intp], orders: NDArray[np.intp]) -> Array:
    """Log-likelihood of every window's orders, given the speakers' attractors: ``(windows, orders)``.

    Attractors of windows have a Gaussian distribution around the speaker's, with the same variance for all.
    """
    count = attractors.shape[1]
    labels = orders[states]  # (windows, sources): the speaker of each source
    centres = np.zeros((count, attractors.shape[2]))
    for speaker in range(count):
        weight = presence * (labels == speaker)
        centres[speaker] = (weight[..., None] * attractors).sum(axis=(0, 1)) / max(weight.sum(), 1e-9)
    squared = np.square(attractors[:, :, None] - centres).sum(axis=-1)  # (windows, sources, speakers)
    own = np.take_along_axis(squared, labels[..., None], axis=2)[..., 0]
    # Over all dimensions together: what differs between windows differs in few directions.
    variance = float((presence * own).sum() / max(presence.sum(), 1e-9))
    fits = np.zeros((len(attractors), len(orders)))
    for index, order in enumerate(orders):
        distance = squared[:, np.arange(count), order]
        fits[:, index] = -(presence * distance).sum(axis=1) / (2 * max(variance, 1e-9))
    return fits


def best_path(fits: Array, links: Array) -> tuple[NDArray[np.intp], Array]:
    """The most likely orders of all windows ``(windows,)``, and their margins over the best alternative."""
    forward = fits.copy()
    for number, link in enumerate(links):
        forward[number + 1] += (forward[number][:, None] + link).max(axis=0)
    backward = np.zeros_like(fits)
    for number in range(len(links) - 1, -1, -1):
        backward[number] = (links[number] + (fits[number + 1] + backward[number + 1])[None]).max(axis=1)
    through = forward + backward  # The best path through each order of each window.
    states = np.zeros(len(fits), dtype=np.intp)
    states[0] = int(through[0].argmax())
    for number, link in enumerate(links):
        scores = link[states[number]] + fits[number + 1] + backward[number + 1]
        states[number + 1] = int(scores.argmax())
    ordered = np.sort(through, axis=1)
    margins = ordered[:, -1] - ordered[:, -2] if fits.shape[1] > 1 else np.full(len(fits), np.inf)
    return states, margins


def _total(fits: Array, links: Array, states: NDArray[np.intp]) -> float:
    steps = sum(float(link[a, b]) for link, a, b in zip(links, states[:-1], states[1:], strict=True))
    return float(fits[np.arange(len(states)), states].sum()) + steps


def _certainty(margins: Array, windows: Sequence[WindowSources]) -> float:
    """Share of the energy in windows whose order is at least 20 times as likely as any other."""
    energy = np.array([float(np.asarray(window.power).sum()) for window in windows])
    return float(energy[margins > np.log(20.0)].sum() / max(energy.sum(), 1e-30))


class SpeakerMemory:
    """Speakers of a stream. Each window is assigned once, from earlier windows, and never revised.

    Every speaker has an attractor that lasts over minutes. It moves towards each window's attractor by a share of at
    least :data:`_LEAST_MOVE`.

    Args:
        speakers: number of speakers.
    """

    def __init__(self, speakers: int) -> None:
        self._orders = np.array(list(permutations(range(speakers))))
        self._centres: Array | None = None
        self._weights = np.zeros(speakers)
        self._variance = 0.0
        self._level = 0.0

    def begin(self, window: WindowSources, speakers: NDArray[np.intp]) -> NDArray[np.intp]:
        """Start with the first window, given the ``speakers`` of its sources ``(sources,)``, which it returns."""
        self._learn(window, speakers)
        return speakers

    def assign(self, window: WindowSources) -> NDArray[np.intp]:
        """The speaker of each source of the next window ``(sources,)``.

        Its ``agreement`` is with the window before in the order of the speakers.
        """
        assert window.agreement is not None
        agreement = np.asarray(window.agreement, dtype=np.float64)
        frames = window.power.shape[1]
        scores = np.array([
            _link(agreement, np.arange(len(order)), order, self._level * frames) for order in self._orders
        ])  # fmt: skip
        if self._centres is not None and window.attractors is not None and self._variance > 0:
            presence = _presence(window) * (self._weights.min() > 0)
            squared = np.square(np.asarray(window.attractors)[:, None] - self._centres).sum(axis=-1)
            for index, order in enumerate(self._orders):
                distance = squared[np.arange(len(order)), order]
                scores[index] -= float((presence * distance).sum()) / (2 * self._variance)
        speakers: NDArray[np.intp] = self._orders[int(scores.argmax())]
        self._learn(window, speakers)
        return speakers

    def _learn(self, window: WindowSources, speakers: NDArray[np.intp]) -> None:
        level = float(np.asarray(window.power).sum(axis=0).mean())
        # The level follows loud windows at once and decays over a hundred windows.
        self._level = max(level, 0.99 * self._level)
        if window.attractors is None:
            return
        attractors = np.asarray(window.attractors, dtype=np.float64)
        if self._centres is None:
            self._centres = np.zeros_like(attractors)
        presence = _presence(window) * min(1.0, level / max(_AUDIBLE * self._level, 1e-30))
        for source, speaker in enumerate(speakers):
            weight = float(presence[source])
            if weight <= 0:
                continue
            move = max(weight / (self._weights[speaker] + weight), _LEAST_MOVE * weight)
            difference = attractors[source] - self._centres[speaker]
            if self._weights[speaker] > 0:
                self._variance += _LEAST_MOVE * weight * (float(difference @ difference) - self._variance)
            self._centres[speaker] += move * difference
            self._weights[speaker] += weight
