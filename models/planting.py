"""Outliers planted in a network without changing what it computes: a known problem with a known answer.

A small network trained here has few outlier channels, so quantization has little to lose and a method little to win.
Multiplying some channels of a scaling by a factor, and dividing what reads them, gives the activation range of large
pretrained networks. The scale ``1 / factor`` at these channels is the answer: it gives back the network as it was.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qexp.conf.errors import UserError
from qexp.conf.schema import PlantConfig
from qexp.models.folding import Scaling, fold, scalings
from qexp.models.sites import AdaptedModel


def plant_outliers(model: AdaptedModel, config: PlantConfig) -> None:
    """Fold :func:`planted_scales` into every scaling of ``config.roles``, in place.

    Bit for bit the same function where the factor is a power of two. ``UserError`` for a role that does not fold, and
    for more channels than there are.
    """
    for scaling in scalings(model, config.roles):
        fold(model.module, scaling, planted_scales(scaling, config))


def planted_scales(scaling: Scaling, config: PlantConfig) -> Tensor:
    """``config.factor`` at ``config.channels`` channels, else 1: [channels].

    The channels are a function of the seed and the width alone: the same ones in every layer, as in pretrained
    networks.
    """
    if config.channels > scaling.channels:
        raise UserError(
            f"model.plant_outliers.channels={config.channels}: {scaling.name} has {scaling.channels} channels"
        )
    generator = torch.Generator().manual_seed(config.seed)
    scales = torch.ones(scaling.channels)
    scales[torch.randperm(scaling.channels, generator=generator)[: config.channels]] = config.factor
    return scales
