"""Both implementations of dynamic fixed point."""

from __future__ import annotations

import pytest

from qexp.kernels import native


@pytest.fixture(params=["native", "torch"])
def path(request, monkeypatch):
    """The compiled operators or torch's own; integer products come from whatever back end there is."""
    if request.param == "native" and native.unavailable() is not None:
        pytest.skip(f"no native kernels: {native.unavailable()}")
    if request.param == "torch":
        monkeypatch.setattr(native, "is_loaded", lambda: False)
    return request.param
