import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from hrtem_stream.transport.sockets import Announcer, Subscriber, make_context

FRAME, SERIES = b"frame:", b"series:"


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    context = make_context()
    yield context
    context.term()


def soon(is_so: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    end = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_an_announcer_knows_which_of_its_topics_are_heard(
    context: zmq.Context, tmp_path: Path
) -> None:
    endpoint = f"ipc://{tmp_path}/told"
    announcer = Announcer(context, endpoint, bind=True, topics=[FRAME, SERIES], high_water=8)
    assert not announcer.is_heard(FRAME)

    def listener(*topics: bytes) -> Subscriber:
        return Subscriber(context, endpoint, bind=False, topics=topics, high_water=8)

    of_series, everything = listener(SERIES, b"something else"), None
    try:
        assert soon(lambda: announcer.is_heard(SERIES))
        assert not announcer.is_heard(FRAME)
        everything = listener(b"")
        assert soon(lambda: announcer.is_heard(FRAME))
        announcer.send([FRAME, b"content"])
        assert everything.wait(20.0)
        received = everything.receive()
        assert received is not None
        assert [bytes(part) for part in received] == [FRAME, b"content"]
    finally:
        of_series.close()
        if everything is not None:
            everything.close()
    assert soon(lambda: not announcer.is_heard(FRAME))
    assert soon(lambda: not announcer.is_heard(SERIES))
    announcer.close()
