"""Before there is a frame, the page claims none: no LIVE, no spectrum, no length of a scale bar."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes


def test_before_the_first_frame_the_page_shows_neither_live_nor_a_spectrum(tmp_path: Path) -> None:
    config = tmp_path / "session.toml"
    config.write_text(f"""
        [session]
        runtime_directory = "{tmp_path / "runtime"}"
        [page]
        port = 0
        """)
    command = [sys.executable, "-m", "hrtem_stream", "page", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as page:
        try:
            line = next(line for line in page.stderr or [] if "http://" in line)
            address = re.findall(r"http://\S+", line)[0]
            with urllib.request.urlopen(address) as answer:
                content = answer.read().decode()
        finally:
            page.terminate()
    assert "Waiting for a series" in content
    assert "LIVE" not in content
    insets = re.findall(r'"class":\[([^\]]*h-spectrum[^\]]*)\]', content)
    assert insets
    assert all("hidden" in inset for inset in insets)
