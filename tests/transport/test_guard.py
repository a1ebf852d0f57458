"""Sockets that leave this host: refused without keys, closed to strangers, open to friends.

The interface of the test is loopback, which the guard is told to take for a network.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from hrtem_stream.errors import SettingsError
from hrtem_stream.transport import guard as guard_module
from hrtem_stream.transport import sockets
from hrtem_stream.transport.guard import LOOPBACK_ONLY, Guard
from hrtem_stream.transport.keys import KeyPair, allow, generate_keys
from hrtem_stream.transport.sockets import Publisher, Subscriber

WAIT_S = 10.0


@pytest.fixture
def contexts() -> Iterator[list[zmq.Context[Any]]]:
    made = [zmq.Context(), zmq.Context()]
    yield made
    for context in made:
        context.destroy(linger=0)


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[KeyPair, KeyPair]:
    """Keys of two hosts in folders a and b; b knows a."""
    for module in (guard_module, sockets):
        monkeypatch.setattr(module, "leaves_host", lambda endpoint: True)
    a = generate_keys(tmp_path / "a", overwrite=False)
    b = generate_keys(tmp_path / "b", overwrite=False)
    allow(tmp_path / "b", "127.0.0.1", a.public.decode())
    return a, b


def _endpoint() -> str:
    with zmq.Context() as context, context.socket(zmq.PUB) as probe:
        return f"tcp://127.0.0.1:{probe.bind_to_random_port('tcp://127.0.0.1')}"


def _heard(publisher: Publisher, subscriber: Subscriber, wait_s: float = WAIT_S) -> bool:
    until_s = time.monotonic() + wait_s
    while time.monotonic() < until_s:
        publisher.send([b"0000:", b"hello"])
        if subscriber.wait(0.02):
            assert subscriber.receive() == [b"0000:", b"hello"]
            return True
    return False


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:5601", "tcp://*:5601", "tcp://[::]:5601"])
def test_a_bound_socket_does_not_leave_the_host_without_keys(tmp_path: Path, endpoint: str) -> None:
    for guard in (LOOPBACK_ONLY, Guard(tmp_path)):
        with pytest.raises(SettingsError, match="leaves this host"):
            guard.check(endpoint, bind=True)
    with pytest.raises(SettingsError, match="hrtem-stream keys generate"):
        Guard(tmp_path).check(endpoint, bind=True)
    Guard(tmp_path, is_open=True).check(endpoint, bind=True)


def test_a_socket_connects_only_to_a_host_whose_key_is_known(tmp_path: Path) -> None:
    keys = generate_keys(tmp_path, overwrite=False)
    with pytest.raises(SettingsError, match="keys allow gpu KEY"):
        Guard(tmp_path).check("tcp://gpu:5601", bind=False)
    allow(tmp_path, "gpu", keys.public.decode())
    Guard(tmp_path).check("tcp://gpu:5601", bind=False)


def test_publishers_refuse_to_leave_the_host_unless_they_are_given_a_guard(
    contexts: list[zmq.Context[Any]],
) -> None:
    with pytest.raises(SettingsError, match="leaves this host"):
        Publisher(contexts[0], "tcp://0.0.0.0:0", bind=True, high_water=8)


@pytest.mark.usefixtures("hosts")
def test_a_stranger_is_refused_until_its_key_is_allowed(
    tmp_path: Path, contexts: list[zmq.Context[Any]], hosts: tuple[KeyPair, KeyPair]
) -> None:
    endpoint = _endpoint()
    ours, theirs = Guard(tmp_path / "a"), Guard(tmp_path / "b")
    publisher = Publisher(contexts[0], endpoint, bind=True, high_water=8, guard=ours)
    subscriber = Subscriber(
        contexts[1], endpoint, bind=False, topics=[b""], high_water=8, guard=theirs
    )
    assert not _heard(publisher, subscriber, wait_s=0.5)
    allow(tmp_path / "a", "gpu", hosts[1].public.decode())
    assert _heard(publisher, subscriber)  # it tried again by itself
    publisher.close()
    subscriber.close()
    ours.close()


@pytest.mark.usefixtures("hosts")
def test_neither_plain_peers_nor_impostors_are_heard(
    tmp_path: Path, contexts: list[zmq.Context[Any]], hosts: tuple[KeyPair, KeyPair]
) -> None:
    endpoint = _endpoint()
    ours = Guard(tmp_path / "a")
    allow(tmp_path / "a", "gpu", hosts[1].public.decode())
    subscriber = Subscriber(
        contexts[0], endpoint, bind=True, topics=[b""], high_water=8, guard=ours
    )
    plain = contexts[1].socket(zmq.PUB)
    impostor = contexts[1].socket(zmq.PUB)
    # It has an allowed public key without the secret one, and knows the server's.
    impostor.curve_publickey, impostor.curve_secretkey = hosts[1].public, hosts[0].secret
    impostor.curve_serverkey = hosts[0].public
    for socket in (plain, impostor):
        socket.linger = 0
        socket.connect(endpoint)
    until_s = time.monotonic() + 0.5
    while time.monotonic() < until_s:
        for socket in (plain, impostor):
            socket.send_multipart([b"0000:", b"forged"])
        assert not subscriber.wait(0.02)
    for socket in (plain, impostor):
        socket.close()
    friend = Publisher(contexts[1], endpoint, bind=False, high_water=8, guard=Guard(tmp_path / "b"))
    assert _heard(friend, subscriber)
    friend.close()
    subscriber.close()
    ours.close()


@pytest.mark.usefixtures("hosts")
def test_a_host_with_another_key_than_ours_for_it_is_not_believed(
    tmp_path: Path, contexts: list[zmq.Context[Any]], hosts: tuple[KeyPair, KeyPair]
) -> None:
    endpoint = _endpoint()
    generate_keys(tmp_path / "impostor", overwrite=False)
    allow(tmp_path / "impostor", "gpu", hosts[1].public.decode())
    posing, theirs = Guard(tmp_path / "impostor"), Guard(tmp_path / "b")
    publisher = Publisher(contexts[0], endpoint, bind=True, high_water=8, guard=posing)
    subscriber = Subscriber(
        contexts[1], endpoint, bind=False, topics=[b""], high_water=8, guard=theirs
    )
    assert not _heard(publisher, subscriber, wait_s=0.5)
    publisher.close()
    subscriber.close()
    posing.close()
