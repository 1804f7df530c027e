"""Fine-tuning with integer linear layers, outlier activations kept in 8-bit integers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import nn

from qexp.conf.errors import UserError
from qexp.methods.base import BaseMethod, Batch, Context, Execution, SiteChange, Surgery
from qexp.methods.outlier_int8.analysis import analyse
from qexp.methods.outlier_int8.functional import arithmetic
from qexp.methods.outlier_int8.settings import Settings
from qexp.models import fixed_point
from qexp.models.certificate import Recorder
from qexp.models.fixed_point_certificate import certificate
from qexp.models.fixed_point_norms import freeze_norms, install_norms, remove_norms
from qexp.models.sites import AdaptedModel


class OutlierInt8(BaseMethod):
    """Linear layers in dynamic fixed point, forward and backward (arXiv 2312.09211)."""

    name = "outlier_int8"
    paper: ClassVar[str | None] = "2312.09211"
    settings: Settings

    def prepare(self, model: AdaptedModel, context: Context) -> Surgery:
        return Surgery(tuple(SiteChange(name, self._words(name)) for name in self._install(model.module)))

    def certify_step(self, model: AdaptedModel, recorder: Recorder) -> dict[str, Any]:
        return certificate(model.module, recorder, backward=True, wide=self._wide)

    def finish(self, model: AdaptedModel) -> None:
        fixed_point.remove(model.module)
        remove_norms(model.module)

    def execute(self, model: AdaptedModel, backend: str) -> Execution | None:
        if self.settings.mode == "float":
            return None
        network = copy.deepcopy(model.module).eval()
        self._install(network)
        fixed_point.freeze(network, backend)
        freeze_norms(network)
        return Execution(network, lambda seen: certificate(network, seen, backward=False, wide=self._wide))

    def analyse(self, model: AdaptedModel, batches: Iterable[Batch], before: Mapping[str, Any]) -> dict[str, Any]:
        return analyse(model, self.settings, self._chosen, batches)

    @property
    def _wide(self) -> bool:
        return self.settings.mode == "int12_outliers"

    def _install(self, network: nn.Module) -> tuple[str, ...]:
        for part in self.settings.exclude:
            if not any(part in name for name, _ in network.named_modules()):
                raise UserError(f"method.exclude: no layer's name contains '{part}'")
        numbers = arithmetic(self.settings)
        names = fixed_point.install(network, numbers, self._chosen)
        for key, kind in (("layernorm", nn.LayerNorm), ("embedding", nn.Embedding)):
            if getattr(self.settings, key):
                found = install_norms(network, kind, numbers)
                if not found:
                    raise UserError(f"method.{key}=true: this network has no {kind.__name__} to map")
                names += found
        return names

    def _chosen(self, name: str) -> bool:
        return not any(part in name for part in self.settings.exclude)

    def _words(self, name: str) -> str:
        s = self.settings
        return f"{s.mode}, activations {s.activation_bits}, weights {s.weight_bits}, gradients {s.gradient_bits} bits"


METHOD = OutlierInt8
