"""The encoders that sort works with."""

from __future__ import annotations

import pytest

from hrtem_stream.stages.series import Encoders


@pytest.mark.parametrize("codec", ["deflate", "zstd", "none"])
@pytest.mark.parametrize("keep", ["graphene", "all"])
def test_encoders_warm_up_whatever_they_are_to_do(codec: str, keep: str) -> None:
    Encoders(codec, keep).warm_up()
