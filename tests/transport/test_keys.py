"""Keys: made once, private, and a list of names that cannot leave its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from hrtem_stream.errors import SettingsError
from hrtem_stream.transport.keys import (
    allow,
    allowed_keys,
    forget,
    generate_keys,
    is_key,
    key_of_host,
    read_keys,
)


def test_a_pair_is_private_and_is_read_as_it_was_made(tmp_path: Path) -> None:
    made = generate_keys(tmp_path / "keys", overwrite=False)
    assert read_keys(tmp_path / "keys") == made
    assert is_key(made.public)
    assert is_key(made.secret)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "keys" / "secret.key").stat().st_mode & 0o777 == 0o600
    assert made.secret.decode() not in (tmp_path / "keys" / "public.key").read_text()
    assert made.secret.decode() not in repr(made)
    assert not list((tmp_path / "keys").glob(".new-*"))


def test_a_pair_is_not_replaced_by_mistake(tmp_path: Path) -> None:
    first = generate_keys(tmp_path, overwrite=False)
    with pytest.raises(SettingsError, match="--overwrite"):
        generate_keys(tmp_path, overwrite=False)
    assert generate_keys(tmp_path, overwrite=True) != first


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    generate_keys(tmp_path, overwrite=False)
    (tmp_path / "secret.key").chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        read_keys(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b'public-key = "short"\nsecret-key = "x"\n'])
def test_a_damaged_pair_is_refused(tmp_path: Path, content: bytes) -> None:
    generate_keys(tmp_path, overwrite=False)
    (tmp_path / "secret.key").write_bytes(content)
    with pytest.raises(SettingsError, match="hrtem-stream keys generate"):
        read_keys(tmp_path)


def test_keys_of_others_are_kept_by_name(tmp_path: Path) -> None:
    other = generate_keys(tmp_path / "other", overwrite=False).public
    allow(tmp_path, "10.0.0.2", other.decode())
    (tmp_path / "allowed" / "broken.key").write_bytes(b"\xff")
    assert allowed_keys(tmp_path) == {"10.0.0.2": other}
    assert key_of_host(tmp_path, "10.0.0.2") == other
    forget(tmp_path, "10.0.0.2")
    assert allowed_keys(tmp_path) == {}
    with pytest.raises(SettingsError, match=r"keys allow 10\.0\.0\.2 KEY"):
        key_of_host(tmp_path, "10.0.0.2")
    with pytest.raises(SettingsError, match="not allowed"):
        forget(tmp_path, "10.0.0.2")


@pytest.mark.parametrize("name", ["", "..", "../gpu", "a/b", ".gpu", "gpu\n", "g\0", "x" * 129])
def test_the_name_of_a_host_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    key = generate_keys(tmp_path, overwrite=False).public.decode()
    with pytest.raises(SettingsError, match="name must be"):
        allow(tmp_path, name, key)


@pytest.mark.parametrize("key", ["", "short", "x" * 41, "\u00e9" * 40, "~" * 40, '"' * 40])
def test_what_is_no_key_is_not_allowed(tmp_path: Path, key: str) -> None:
    with pytest.raises(SettingsError, match="Z85"):
        allow(tmp_path, "gpu", key)
