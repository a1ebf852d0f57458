"""The benchmark of reprocess: whose results are taken for whose."""

from __future__ import annotations

import json
from pathlib import Path

from bench.reprocess import result_path, results


def test_what_one_segmenter_took_is_not_reported_of_another(tmp_path: Path) -> None:
    noted = {"run": "alone", "frames": 9, "seconds": 1.0, "digest": "d"}
    result_path(tmp_path, "alone", "bragg").write_text(json.dumps(noted))
    assert results(tmp_path, "bragg") == [noted]
    assert results(tmp_path, "unet") == []
