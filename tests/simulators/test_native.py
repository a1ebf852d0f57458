from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import msgpack
import numpy as np
import pytest

from hrtem_stream.messages import FeedFrame, SeriesEnd, SeriesStart
from hrtem_stream.simulators import native
from hrtem_stream.sources.native import NativeSource


@pytest.fixture
def endpoint() -> Iterator[str]:
    # Not below tmp_path: socket paths have at most 107 characters.
    with tempfile.TemporaryDirectory() as folder:
        yield f"ipc://{folder}/feed"


def test_an_image_that_is_not_in_row_order_is_sent_in_row_order() -> None:
    image = np.arange(6, dtype=np.uint16).reshape(2, 3)
    header, pixels = native.encode_frame("S1", sequence=0, image=image.T)
    assert msgpack.unpackb(header)["shape"] == [3, 2]
    assert bytes(pixels) == image.T.tobytes()


def test_a_message_says_version_type_and_series() -> None:
    (header,) = native.encode_start("S1", n_frames=2)
    assert msgpack.unpackb(header) == {
        "version": 1,
        "type": "start",
        "series": "S1",
        "n_frames": 2,
    }


def test_the_example_in_the_documentation_works(endpoint: str) -> None:
    example = inspect.cleandoc((native.__doc__ or "").partition("waits in its socket.\n")[2])
    assert ast.parse(example).body
    source = NativeSource(endpoint)
    source.open(None)
    # The script ends before we take what it sent.
    script = example.replace("tcp://127.0.0.1:5555", endpoint)
    sending = subprocess.Popen([sys.executable, "-c", script])
    items = [source.receive(20)]
    time.sleep(0.3)
    items += [source.receive(20) for _ in range(11)]
    source.close()
    assert sending.wait(20) == 0
    assert isinstance(items[0], SeriesStart)
    assert items[11] == SeriesEnd(series="S1", n_frames=10)
    assert all(isinstance(item, FeedFrame) and not item.fault for item in items[1:11])


def test_a_sender_that_ends_loses_nothing(endpoint: str) -> None:
    script = (
        "import numpy as np\n"
        "from hrtem_stream.simulators.native import NativeSender\n"
        f"with NativeSender({endpoint!r}, linger_s=20) as sender:\n"
        "    sender.send_series('S1', [np.zeros((512, 512), np.uint16)] * 60)\n"
    )
    source = NativeSource(endpoint, n_buffered=4)
    source.open(None)
    sending = subprocess.Popen([sys.executable, "-c", script])
    items = []
    while not items or (items[-1] is not None and not isinstance(items[-1], SeriesEnd)):
        items.append(source.receive(20))
        time.sleep(0.005)
    source.close()
    assert sending.wait(20) == 0
    assert [item.sequence for item in items if isinstance(item, FeedFrame)] == list(range(60))
