"""Every weight, activation and gradient of one training pass, each handed to a function that measures it.

Attention counts as one op: its scores and probabilities have no rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn

from qexp.models.adapters._common import base_of
from qexp.models.attention import NAME, AttentionParts
from qexp.models.sites import AdaptedModel

QUESTIONS = "ForQuestionAnswering"
"""transformers' name for the loss of networks that find answers."""
_INSIDE_ATTENTION = ("scores", "probs", "probability", "rescale")

T = TypeVar("T")
Rows = dict[str, dict[str, T]]
"""Place (a module's path, or ``<path>.input``) -> kind (``weight``, ``activation``, ``gradient``, ``weight_gradient``,
``bias_gradient``) -> what was measured, in the network's order. Paths are without the name of the body
(``transformer.``) and of qexp's parts."""
Measure = Callable[[Tensor, str], T]
"""From a tensor and its kind to what is kept of it."""


@contextmanager
def watched(model: AdaptedModel, measure: Measure[T]) -> Iterator[Rows[T]]:
    """Yield rows that the block's passes fill: weights at once, outputs and the gradients arriving there as they come.

    Of several forward passes the last one stays. Nothing is changed, and hooks are gone when the block ends.
    """
    found = _weights(model, measure)
    with ExitStack() as stack:
        for handle in _hooks(model, found, measure):
            stack.callback(handle.remove)
        yield found


def add_parameters(
    found: Rows[T], model: AdaptedModel, gradients: Mapping[str, Tensor | None], measure: Measure[T]
) -> None:
    """Measure parameters' ``gradients`` too, by the parameters' names. What no gradient reaches has none.

    No softmax sees a key's bias, whose gradient is left out.
    """
    unseen = _unseen_biases(model)
    for name, gradient in gradients.items():
        path, _, parameter = name.rpartition(".")
        if gradient is not None and bool(gradient.any()) and name not in unseen:
            is_bias = parameter == "bias"
            place = _place(model, path if is_bias or parameter == "weight" else name)
            kind = "bias_gradient" if is_bias else "weight_gradient"
            found.setdefault(place, {})[kind] = measure(gradient, kind)


def _weights(model: AdaptedModel, measure: Measure[T]) -> Rows[T]:
    """Rows for all modules and input sites, in the network's order, with what is measured of the modules' weights."""
    found: Rows[T] = {}
    inputs = {site.module for site in model.sites.activations() if site.kind == "input"}
    for path, module in model.module.named_modules():
        if path in inputs:
            found[f"{_place(model, path)}.input"] = {}
        weight = module._parameters.get("weight")
        row = {} if weight is None or weight.ndim < 2 else {"weight": measure(weight, "weight")}
        found[_place(model, path)] = row
    return found


def _unseen_biases(model: AdaptedModel) -> set[str]:
    """Biases that move all that one softmax is of alike: it does not see them, and rounding is their gradient.

    Keys' in attention; and where the softmax is over a sequence's tokens, what is added to each of them last.
    """
    keys = {info.key for info in model.attention} - {info.value for info in model.attention}
    unseen = {linear.module for linear in model.linears if linear.output in keys}
    network: Any = model.module
    if network.loss_type == QUESTIONS:
        unseen |= {"qa_outputs", model.sites.activations()[-1].module}
    return {f"{module}.bias" for module in unseen}


def _place(model: AdaptedModel, path: str) -> str:
    _, prefix = base_of(model.module)
    return path.removeprefix(prefix).replace(f".{NAME}.", ".").removesuffix(f".{NAME}")


def _hooks(model: AdaptedModel, found: Rows[T], measure: Measure[T]) -> Iterator[Any]:
    """Hooks on every module without parts of its own, and on the sites that are inputs; returned as handles."""
    kept: list[Tensor] = []  # a tensor that is freed may leave its address to another

    def note(place: str, tensor: Any) -> None:
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            return
        if any(tensor.data_ptr() == t.data_ptr() and tensor.shape == t.shape for t in kept):
            return  # an identity hands on what is noted already
        kept.append(tensor)
        row = found.setdefault(place, {})
        row["activation"] = measure(tensor, "activation")
        if tensor.requires_grad:
            tensor.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: row.update(gradient=measure(gradient, "gradient"))
            )

    def after(place: str, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if any(isinstance(argument, Tensor) for argument in args):  # else it hands on a parameter: an initial state
            note(place, output)

    for path, module in model.module.named_modules():
        place = _place(model, path)
        if not any(True for _ in module.children()) and not _is_inside_attention(model, path):
            yield module.register_forward_hook(partial(after, place))
    for site in model.sites.activations():
        if site.kind == "input":
            target, place = model.module.get_submodule(site.module), f"{_place(model, site.module)}.input"
            yield target.register_forward_pre_hook(lambda _, args, place=place: note(place, args[0]))


def _is_inside_attention(model: AdaptedModel, name: str) -> bool:
    parent, _, part = name.rpartition(".")
    return part in _INSIDE_ATTENTION and isinstance(model.module.get_submodule(parent), AttentionParts)
