"""The execution certificate: what an integer model really ran, from the operators that torch dispatched.

A :class:`Recorder` sees every operator of the forward passes in its ``with`` block, and the module that was running
when it came. What a module is called or was made from plays no part: a claim holds if integer products were seen while
its module ran, and no product of floats.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from qexp.conf.errors import RunError
from qexp.kernels.int8.backends import NAMES, find
from qexp.models.integer import IntegerModel
from qexp.models.integer_conversion import Claim, why_without_sites

FUSED_ATTENTION = "qexp::int8_attention"
"""The native operator that holds both products of attention."""
FUSED_FIXED_POINT = "qexp::fixed_point_product"
"""The native operator that adds up products of int8 tiles: see ``kernels/fixed_point/products.py``."""
_PRODUCT = re.compile(
    r"::_*(\w+_)?(b?mm|addb?mm|baddbmm|addmv|mv|(v|vec)?dot|inner|matmul|linear|(b|tr)ilinear|einsum"
    r"|tensordot|conv\w*[123]d|convolution|cdist|scaled_dot_product|attention)(_\w+)?$"
)
"""Operators that sum products; some are composites, which torch does not take apart in inference mode."""
_COPY = re.compile(
    r"::_*(to_copy|copy_?|clone|contiguous|detach_?|unsafe_view|item|local_scalar_dense|(empty|new|zeros|ones|full)(_\w+)?)$"
)
"""Operators that compute nothing."""
_CODES = ("uint8", "int8")


class IntegerError(RunError):
    """What an integer model claims is not what it did."""


class Seen(NamedTuple):
    """An operator as it was dispatched, with the types of its first two tensors and of its result.

    ``step``: how many modules had been called before, within the same call of the module that was running.
    """

    op: str
    step: int
    operands: tuple[torch.dtype, ...]
    result: torch.dtype | None

    @property
    def is_float(self) -> bool:
        """Whether it took floats or, from nothing, made some."""
        types = self.operands or (self.result,)
        return any(dtype.is_floating_point or dtype.is_complex for dtype in types if dtype is not None)

    @property
    def is_integer_product(self) -> bool:
        """Whether it is a back end's exact product of codes."""
        return self.op in _integer_products()

    @property
    def is_float_product(self) -> bool:
        """Whether it summed products of floats."""
        return self.is_float and not self.is_integer_product and _PRODUCT.search(self.op) is not None


@dataclass
class _Frame:
    """The call of a module that is running, and how many modules it has called so far."""

    module: nn.Module | None
    step: int = 0


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its methods untyped
    """Counts what is dispatched in its ``with`` block, which may be entered again and again."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: defaultdict[nn.Module | None, Counter[Seen]] = defaultdict(Counter)
        self._frames = [_Frame(None)]
        self._handles: tuple[RemovableHandle, ...] = ()

    def __enter__(self) -> Recorder:
        self._frames = [_Frame(None)]
        self._handles = (
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module, always_call=True),
        )
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if (name := operation(func)) is not None:
            frame = self._frames[-1]
            operands = tuple(value.dtype for value in args if isinstance(value, Tensor))[:2]
            made = result.dtype if isinstance(result, Tensor) else None
            self.seen[frame.module][Seen(name, frame.step, operands, made)] += 1
        return result

    def _enter_module(self, module: nn.Module, _: Any) -> None:
        self._frames.append(_Frame(module))

    def _leave_module(self, *_: Any) -> None:
        self._frames.pop()
        self._frames[-1].step += 1

    def certificate(self, integer: IntegerModel) -> dict[str, Any]:
        """What ran while this recorder was on, as plain data: the keys are in ``docs/record.md``.

        Raises ``IntegerError`` for a claimed product of which a product of floats was seen, or none of integers.
        """
        memory = integer.memory
        return {
            "backend": integer.backend,
            "isa": integer.isa,
            "threads": torch.get_num_threads(),
            "bits": integer.bits,
            "products": [self._product(integer, claim) for claim in integer.claimed if claim.kind != "embedding"],
            "in_float": list(self._in_float(integer)),
            "float_operations": self.float_operations(),
            "embeddings": [_embedding(integer, claim) for claim in integer.claimed if claim.kind == "embedding"],
            "weights": {**asdict(memory), "ratio": round(memory.ratio, 4)},
        }

    def _product(self, integer: IntegerModel, claim: Claim) -> dict[str, Any]:
        """The integer products of a claim, of the module that stands there now; floats may hide in no part of it."""
        module = _live(integer, claim)
        ran: list[Counter[Seen]] = [] if module is None else [self.seen.get(m, Counter()) for m in module.modules()]
        if (wrong := next((seen for part in ran for seen in part if seen.is_float_product), None)) is not None:
            raise IntegerError(f"{claim.name} is claimed in integers, but {wrong.op} multiplied floats in it")
        found = {seen: calls for own in ran[:1] for seen, calls in own.items() if _is_product_of(claim, seen)}
        if not found:
            raise IntegerError(f"{claim.name} is claimed in integers, but no integer product was seen in it")
        first = next(iter(found))
        return {
            "name": claim.name,
            "kind": claim.kind,
            "op": _names(found),
            **_types(claim, first),
            "backend": _backend_of(first.op, integer.backend),
            "calls": sum(found.values()),
        }

    def _in_float(self, integer: IntegerModel) -> Iterator[dict[str, Any]]:
        """One entry a module that multiplied floats."""
        names = {module: name for name, module in integer.module.named_modules()}
        listed = {layer.module: (layer.name, layer.why) for layer in integer.in_float}
        for module, ran in self.seen.items():
            found = {seen: calls for seen, calls in ran.items() if seen.is_float_product}
            if not found:
                continue
            path = names.get(module) if module is not None else None
            if path is None:
                name, why = type(module).__name__, "it is no part of the integer model"
            else:
                name, why = listed.get(path) or (path, why_without_sites(integer.adapted, path))
            yield {"name": name, "op": _names(found), "why": why, "calls": sum(found.values())}

    def float_operations(self) -> dict[str, int]:
        """Everything else that computed with floats, the most frequent first."""
        counts: Counter[str] = Counter()
        for ran in self.seen.values():
            for seen, calls in ran.items():
                if seen.is_float and not _PRODUCT.search(seen.op):
                    counts[seen.op] += calls
        return dict(counts.most_common())


@cache
def operation(func: Any) -> str | None:
    """The name of an operator, as ``aten::mm``; None for views, copies and the like."""
    schema = getattr(func, "_schema", None)
    name = str(func.name() if schema is None else schema.name)
    is_view = schema is not None and any(r.alias_info and not r.alias_info.is_write for r in schema.returns)
    return None if is_view or name.startswith("prim::") or _COPY.search(name) else name


@cache
def _integer_products() -> dict[str, tuple[str, ...]]:
    """Operator -> the back ends whose exact product it is."""
    backends = [find(name) for name in NAMES if name != "auto"]
    ops = {op for backend in backends for op in backend.products}
    listed = {op: tuple(b.name for b in backends if op in b.products) for op in ops}
    return listed | {FUSED_ATTENTION: ("native",), FUSED_FIXED_POINT: ("native",)}


def _backend_of(op: str, preferred: str) -> str:
    names = _integer_products()[op]
    return preferred if preferred in names else names[0]


def _is_product_of(claim: Claim, seen: Seen) -> bool:
    """Attention calls its probability function between its two products, unless one operator does all of it."""
    if not seen.is_integer_product:
        return False
    if claim.kind == "linear":
        return seen.op != FUSED_ATTENTION
    return seen.op == FUSED_ATTENTION or (seen.step == 0) == (claim.kind == "attention_scores")


def _types(claim: Claim, seen: Seen) -> dict[str, str]:
    """Types of the codes, as dispatched; the claim's where the operator makes them of floats, or has them packed."""
    dtypes = (*seen.operands, None, None)[:2] + (seen.result,)
    first, second, result = (str(dtype).removeprefix("torch.") for dtype in dtypes)
    return {
        "input": first if first in _CODES else claim.input,
        "weight": second if first in _CODES and second in _CODES else claim.weight,
        "accumulator": result if result.startswith("int") else "int32",
    }


def _names(found: Iterable[Seen]) -> str:
    return ", ".join(sorted({seen.op for seen in found}))


def _live(integer: IntegerModel, claim: Claim) -> nn.Module | None:
    try:
        return integer.module.get_submodule(claim.module)
    except AttributeError:
        return None


def _embedding(integer: IntegerModel, claim: Claim) -> dict[str, Any]:
    stored = getattr(getattr(_live(integer, claim), "weight", None), "dtype", None)
    if stored != torch.int8:
        raise IntegerError(f"{claim.name} is claimed to be stored in int8, but is {stored}")
    return {"name": claim.name, "stored": "int8"}
