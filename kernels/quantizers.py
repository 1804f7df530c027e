"""The quantizer module that stands at a site: off, estimating its range, or quantizing with a fixed one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qexp.kernels.quantize import QParams, fake_quantize, grid, qparams_from_range
from qexp.kernels.ranges import RangeEstimator

Mode = Literal["off", "estimate", "quantize"]
Granularity = Literal["per_tensor", "per_channel", "per_token"]


class Quantizer(nn.Module):
    """Fake-quantizes its input; the shape of a range (per tensor or channel) is its estimator's.

    ``mode``: ``off`` returns x itself; ``estimate`` updates the range and quantizes with what is known so far (the
    paper calibrates with quantizers on); ``quantize`` uses the range fixed by :meth:`freeze` or by a loaded state dict.
    ``per_token`` takes each last-axis vector's own min-max range in either mode, needs no estimator, and if symmetric
    always has the signed grid (to choose by the data would wait for the device in every call).

    Buffers once frozen: ``scale`` (float32), ``zero_point`` (int32), ``qmin`` (int32). They move with the module but
    are never cast, since half precision does not hold them. Ranges get no gradient.
    """

    scale: Tensor | None
    zero_point: Tensor | None
    qmin: Tensor | None

    def __init__(
        self,
        bits: int,
        symmetric: bool,
        estimator: RangeEstimator | None = None,
        granularity: Granularity = "per_tensor",
    ):
        super().__init__()
        grid(bits, signed=symmetric)
        if granularity not in ("per_tensor", "per_channel", "per_token"):
            raise ValueError(f"unknown granularity {granularity!r}: per_tensor, per_channel or per_token")
        self.bits = bits
        self.symmetric = symmetric
        self.estimator = estimator
        self.granularity = granularity
        self.mode: Mode = "off"
        for name in ("scale", "zero_point", "qmin"):
            self.register_buffer(name, None)
        # The buffers once more as one plain attribute: a forward pass looks up no buffer and waits for no device.
        self._frozen: QParams | None = None

    def forward(self, x: Tensor) -> Tensor:
        mode = self.mode
        if mode == "off":
            return x
        if self.granularity == "per_token":
            return fake_quantize(x, self._token_qparams(x))
        if mode == "quantize":
            if self._frozen is None:
                raise ValueError(
                    "the range is not fixed yet: run calibration batches in mode 'estimate', then freeze()"
                )
            return fake_quantize(x, self._frozen)
        self._need_estimator().update(x)
        return fake_quantize(x, self._estimated())

    @property
    def qparams(self) -> QParams:
        """The grid in use: the fixed one, or in mode ``estimate`` (and before ``freeze``) the current estimate."""
        if self._frozen is not None and self.mode != "estimate":
            return self._frozen
        return self._estimated()

    def freeze(self) -> None:
        """Fix the range at the estimate and switch to mode ``quantize``.

        ``ValueError`` if no data was seen, or if a NaN or infinity was.
        """
        if self.granularity != "per_token":
            params = self._estimated()
            if not self._need_estimator().finite:
                raise ValueError("NaN or infinity seen while estimating a quantization range")
            self.fix(params)
        self.mode = "quantize"

    def fix(self, params: QParams) -> None:
        """Quantize on the grid ``params`` from now on, as if calibration had found it."""
        self.scale, self.zero_point = params.scale, params.zero_point
        self.qmin = torch.tensor(params.qmin, dtype=torch.int32, device=params.scale.device)
        self._frozen, self.mode = params, "quantize"

    def _need_estimator(self) -> RangeEstimator:
        if self.estimator is None:
            raise ValueError(f"a {self.granularity} quantizer without an estimator has no range of its own")
        return self.estimator

    def _estimated(self) -> QParams:
        return qparams_from_range(*self._need_estimator().range(), self.bits, self.symmetric)

    def _token_qparams(self, x: Tensor) -> QParams:
        values = x.detach()
        ends = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
        return qparams_from_range(*ends, self.bits, self.symmetric, signed=self.symmetric)

    def _rebuild(self, qmin: int) -> None:
        assert self.scale is not None and self.zero_point is not None
        self._frozen = QParams(self.scale, self.zero_point, qmin, qmin + 2**self.bits - 1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Quantizer:
        before = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            moved = self._buffers[name]
            assert moved is not None
            self._buffers[name] = buffer.to(moved.device)
        if self._frozen is not None:
            self._rebuild(self._frozen.qmin)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("scale", "zero_point", "qmin"):
            if (stored := state_dict.get(prefix + name)) is not None:
                present = getattr(self, name)
                setattr(self, name, torch.empty_like(stored, device=None if present is None else present.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if self.qmin is not None:
            self._rebuild(int(self.qmin))

    def extra_repr(self) -> str:
        kind = "symmetric" if self.symmetric else "asymmetric"
        return f"bits={self.bits}, {kind}, {self.granularity}, mode={self.mode}"
