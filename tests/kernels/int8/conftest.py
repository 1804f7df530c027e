"""Each back end that multiplies on this machine's CPU."""

from __future__ import annotations

import pytest

from qexp.kernels.int8.backends import examine_one


@pytest.fixture(scope="session", params=["reference", "tiled", "avx2", "vnni", "amx"])
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a back end; the test is skipped where it cannot be used."""
    report = examine_one(request.param)
    if not report.usable:
        pytest.skip(f"{report.name}: {report.reason}")
    return report.name
