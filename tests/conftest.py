"""Fixtures that many tests share, and the rule that required groups must not skip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REAL_FRAMES = Path(__file__).parents[2] / "shared" / "data" / "graphene-u-net"


def pytest_configure(config: pytest.Config) -> None:
    # A setting in the developer's environment must not change what is tested.
    for variable in [name for name in os.environ if name.startswith("HRTEM_")]:
        del os.environ[variable]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """Turn a skip into a failure where its group is required, as in CI."""
    report = yield
    required = os.environ.get("REQUIRED_TEST_GROUPS", "").split()
    if report.skipped and any(item.get_closest_marker(group) for group in required):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} must not skip here: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def real_frames() -> Path:
    """Folder of the labelled frames of graphene, beside the checkout."""
    if not REAL_FRAMES.is_dir():
        pytest.skip(f"the labelled frames are not at {REAL_FRAMES}")
    return REAL_FRAMES
