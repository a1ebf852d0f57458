"""Decides for each socket whether it may leave this host, and encrypts it if it does.

A socket on ipc or loopback stays as it is. Any other is encrypted by CURVE: who binds asks whether
the peer's key is in the list of allowed ones, who connects asks whether the host has the key that
the list holds for it. Without keys such a socket is refused, before it is opened.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq

from hrtem_stream.addresses import host_of, leaves_host
from hrtem_stream.errors import SettingsError

if TYPE_CHECKING:
    from hrtem_stream.transport.keys import KeyPair

logger = logging.getLogger(__name__)

DOMAIN = b"hrtem"
MAX_NAMED = 100
"""So many refused keys are named in the log; a stranger may have any number."""
WILDCARDS = ("*", "0.0.0.0", "::")


class Guard:
    """Applies one rule to all sockets of a process.

    Parameters
    ----------
    folder
        Where the keys lie, see `keys`; None: there are none, and no socket may leave the host.
    is_open
        Whether sockets may leave the host without encryption, because the user said so.
    """

    def __init__(self, folder: Path | None, *, is_open: bool = False) -> None:
        self._folder = folder
        self._is_open = is_open
        self._authenticators: list[tuple[zmq.Context[Any], Any]] = []

    def check(self, endpoint: str, *, bind: bool) -> None:
        """Refuse an endpoint that may not be opened, without opening it.

        Raises
        ------
        SettingsError
            It leaves this host and there are no keys, or none for its host.
        """
        if self._is_open or not leaves_host(endpoint):
            return
        self._keys_for(endpoint, bind=bind)

    def secure(self, socket: zmq.Socket[Any], endpoint: str, *, bind: bool) -> None:
        """Prepare a socket for an endpoint; to be called before it binds or connects.

        Raises
        ------
        SettingsError
            As `check`.
        """
        if self._is_open or not leaves_host(endpoint):
            return
        folder, keys, server_key = self._keys_for(endpoint, bind=bind)
        socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
        if bind:
            self._authenticate(socket.context, folder, keys)
            socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
            socket.curve_server = True
        else:
            socket.curve_serverkey = server_key

    def close(self) -> None:
        """Stop answering for the contexts of the sockets; before these are terminated."""
        for _, authenticator in self._authenticators:
            authenticator.stop()
        self._authenticators.clear()

    def _keys_for(self, endpoint: str, *, bind: bool) -> tuple[Path, KeyPair, bytes]:
        """Give the folder of keys, our pair, and the key that the binding side must have."""
        from hrtem_stream.transport.keys import key_of_host, read_keys  # few need them

        if self._folder is None:
            raise SettingsError(f"endpoint {endpoint} leaves this host, and there are no keys")
        try:
            keys = read_keys(self._folder)
            host = host_of(endpoint)
            # What listens on every interface of this host is one of our own stages.
            is_own = bind or host in WILDCARDS
            server_key = keys.public if is_own else key_of_host(self._folder, host)
        except SettingsError as error:
            raise SettingsError(
                f"endpoint {endpoint} leaves this host, so it must be encrypted: {error}; "
                "--insecure lets everybody on the network read it and write to it"
            ) from None
        return self._folder, keys, server_key

    def _authenticate(self, context: zmq.Context[Any], folder: Path, keys: KeyPair) -> None:
        """Ask the list about every peer of a context, in a thread."""
        from zmq.auth.thread import ThreadAuthenticator  # it brings asyncio; few need it

        if any(context is known for known, _ in self._authenticators):
            return
        authenticator = ThreadAuthenticator(context, log=logging.getLogger(f"{__name__}.zap"))
        authenticator.start()
        authenticator.configure_curve_callback(
            domain=DOMAIN.decode(), credentials_provider=_AllowList(folder, keys.public)
        )
        self._authenticators.append((context, authenticator))


class _AllowList:
    """Answers whether a key is allowed; the folder is read anew for each peer."""

    def __init__(self, folder: Path, own: bytes) -> None:
        self._folder = folder
        self._own = own
        self._refused: set[bytes] = set()

    def callback(self, domain: str, key: bytes) -> bool:
        """Tell whether the peer with this public key is allowed: a stage of this host always."""
        if key == self._own:
            return True
        from hrtem_stream.transport.keys import allowed_keys

        for name, allowed in allowed_keys(self._folder).items():
            if allowed == key:
                logger.info("%s connected", name)
                return True
        if key not in self._refused and len(self._refused) < MAX_NAMED:
            self._refused.add(key)
            self._warn(key)
        return False

    @staticmethod
    def _warn(key: bytes) -> None:
        logger.warning(
            "a peer was refused, its key %s is not allowed here; to accept it: "
            "hrtem-stream keys allow NAME '%s'", key.decode(), key.decode(),
        )  # fmt: skip


LOOPBACK_ONLY = Guard(None)
"""For sockets that never leave this host."""

OPEN = Guard(None, is_open=True)
"""For instruments that know no encryption, on a network of their own."""
