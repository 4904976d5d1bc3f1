"""Weights of a denoiser for more units, or another window, than it was trained with."""

from __future__ import annotations

import torch
from torch import Tensor

from unmingle.networks import Lstm
from unmingle.systems import DenoisingSystem
from unmingle.training.other_window import frequencies, interpolated

_GATES = 4


def with_more_units(weights: Tensor, fresh: Tensor, given: int) -> Tensor:
    """Weights ``(4 * units, from)`` or biases ``(4 * units,)`` of a layer with more units than ``weights`` has.

    The given units keep their weights and read none of the new units. The new units have the weights of ``fresh``.

    Args:
        weights: of the smaller layer.
        fresh: of the larger layer.
        given: number of units of the smaller layer.
    """
    gates = fresh.clone().unflatten(0, (_GATES, -1))
    gates[:, :given] = 0
    theirs = weights.unflatten(0, (_GATES, -1))
    if weights.ndim == 1:
        gates[:, :given] = theirs
    else:
        gates[:, :given, : weights.shape[1]] = theirs
    larger: Tensor = gates.flatten(0, 1)
    return larger


def weights_for_larger(system: DenoisingSystem, donor: DenoisingSystem) -> dict[str, Tensor]:
    """The donor's weights for a system of the same kind whose experts have more units, or another window.

    With the same window the masks are the same: the output layer does not use the new units yet. With another window
    all weights of inputs and outputs are interpolated between the frequencies of bins and bands.
    """
    found = dict(donor.state_dict())
    bins = [frequencies(each) for each in (donor, system)]
    for name in ("mean", "deviation"):
        found[f"frontend.{name}"] = interpolated(found[f"frontend.{name}"], *bins)
    bands = [
        _bands(each.experts[0], hertz).double() for each, hertz in zip((donor, system), bins, strict=True)
    ]
    units = donor.experts[0].layers.hidden_size
    scale = len(bands[0]) / len(bands[1])
    for name, fresh in system.state_dict().items():
        if not name.startswith(("network.", "specialists.")):
            continue  # The gate and the centres of clusters do not depend on the sizes.
        theirs = found[name].float()
        if ".layers." in name:
            if name.endswith("weight_ih_l0"):
                theirs = interpolated(theirs, *bands) * scale
            found[name] = with_more_units(theirs, fresh, units)
        elif theirs.ndim == 1:
            found[name] = interpolated(theirs, *bands)
        else:
            found[name] = torch.zeros_like(fresh)
            found[name][:, :units] = interpolated(theirs.T, *bands).T
    return found


def _bands(expert: Lstm, hertz: Tensor) -> Tensor:
    """The mean frequency of every band, or of every bin of an expert without bands."""
    return hertz if expert.bands is None else expert.bands.pool(hertz[None, None])[0, 0]
