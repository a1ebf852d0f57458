"""No test leaves a session behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.end_to_end.command import Session


@pytest.fixture(autouse=True)
def _no_session_is_left() -> Iterator[None]:
    yield
    Session.end_all()
