"""Keys for CURVE, ZeroMQ's encryption: one pair for each host, and a list of the others' keys.

A folder holds them, in the form that pyzmq writes:

    secret.key          our pair; readable by its owner alone
    public.key          what the other hosts are given
    allowed/NAME.key    public keys that we accept

NAME is free for hosts that connect to us. For a host to which we connect it is the host as it
stands in the endpoint: `tcp://gpu:5601` is trusted if it has the key in `allowed/gpu.key`.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import zmq.auth
from zmq.utils import z85

from hrtem_stream.errors import SettingsError

SECRET, PUBLIC, ALLOWED = "secret.key", "public.key", "allowed"
KEY_CHARACTERS: Final = 40
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:%-]{0,127}")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Our pair, in Z85 as ZeroMQ takes it."""

    public: bytes
    secret: bytes = field(repr=False)


def generate_keys(folder: Path, *, overwrite: bool) -> KeyPair:
    """Make a pair of keys in a folder.

    Raises
    ------
    SettingsError
        There is one already, or the folder cannot be written.
    """
    if (folder / SECRET).exists() and not overwrite:
        raise SettingsError(
            f"{folder / SECRET} exists; --overwrite replaces it, and every host that allows the "
            "old key must be given the new one"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / ALLOWED).mkdir(exist_ok=True, mode=0o700)
        # Nobody else can look into a temporary folder, whatever the file's mode is at first.
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
        try:
            public, secret = zmq.auth.create_certificates(fresh, "pair")
            while _looks_like_an_option(public):
                public, secret = zmq.auth.create_certificates(fresh, "pair")
            Path(secret).chmod(0o600)
            Path(secret).replace(folder / SECRET)
            Path(public).replace(folder / PUBLIC)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise SettingsError(f"keys cannot be written to {folder}: {error.strerror}") from None
    return read_keys(folder)


def read_keys(folder: Path) -> KeyPair:
    """Read our pair.

    Raises
    ------
    SettingsError
        There is none, it is damaged, or others can read the secret key.
    """
    path = folder / SECRET
    try:
        mode = path.stat().st_mode
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError):
        raise SettingsError(
            f"there are no keys in {folder}: run `hrtem-stream keys generate`"
        ) from None
    if mode & 0o077:
        raise SettingsError(f"{path} must be readable by its owner alone: run `chmod 600 {path}`")
    if secret is None or not (is_key(public) and is_key(secret)):
        raise SettingsError(f"{path} is damaged: run `hrtem-stream keys generate --overwrite`")
    return KeyPair(public, secret)


def allow(folder: Path, name: str, public_key: str) -> None:
    """Accept the public key of another host.

    Raises
    ------
    SettingsError
        Name or key are malformed, or the folder cannot be written.
    """
    path = _allowed_path(folder, name)
    if not is_key(public_key.encode()):
        raise SettingsError(
            f"a public key must be {KEY_CHARACTERS} characters of Z85, as `hrtem-stream keys show` "
            f"prints it, got {public_key!r}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(f'curve\n    public-key = "{public_key}"\n', encoding="ascii")
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from None


def forget(folder: Path, name: str) -> None:
    """Accept the key of another host no more.

    Connections that it has stay open until it or we start anew.

    Raises
    ------
    SettingsError
        It was not accepted.
    """
    path = _allowed_path(folder, name)
    try:
        path.unlink()
    except OSError:
        raise SettingsError(f"{name} is not allowed: there is no {path}") from None


def allowed_keys(folder: Path) -> dict[str, bytes]:
    """Give the accepted public keys by name; files that hold none are left out."""
    found = {}
    for path in sorted((folder / ALLOWED).glob("*.key")):
        try:
            public, _ = zmq.auth.load_certificate(path)
        except (OSError, ValueError):
            continue
        if is_key(public):
            found[path.name.removesuffix(".key")] = public
    return found


def key_of_host(folder: Path, host: str) -> bytes:
    """Give the public key of a host to which we connect.

    Raises
    ------
    SettingsError
        It is not accepted.
    """
    keys = allowed_keys(folder)
    if host not in keys:
        raise SettingsError(
            f"there is no key of {host} in {folder / ALLOWED}: run `hrtem-stream keys show` there "
            f"and `hrtem-stream keys allow {host} KEY` here"
        )
    return keys[host]


def is_key(text: bytes) -> bool:
    """Tell whether a text can be a key."""
    try:
        return len(text) == KEY_CHARACTERS and len(z85.decode(text)) == 32
    except (ValueError, KeyError, IndexError):
        return False


def _looks_like_an_option(path: str) -> bool:
    """Tell whether a public key begins with a hyphen: a command line would misunderstand it."""
    return zmq.auth.load_certificate(path)[0].startswith(b"-")


def _allowed_path(folder: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise SettingsError(
            "a host's name must be letters, digits and _ . : % -, beginning with a letter or "
            f"digit, got {name!r}"
        )
    return folder / ALLOWED / f"{name}.key"
