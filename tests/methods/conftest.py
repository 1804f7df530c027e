"""The tiny networks of ``tests/models``, for methods."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_spec = spec_from_file_location("qexp_tests_models_conftest", Path(__file__).parents[1] / "models" / "conftest.py")
assert _spec is not None and _spec.loader is not None
_models = module_from_spec(_spec)
_spec.loader.exec_module(_models)

family, head, network, tokens, output_of = (
    _models.family,
    _models.head,
    _models.network,
    _models.tokens,
    _models.output_of,
)
