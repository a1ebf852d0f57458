"""Commands on keys: who may talk to this host's sessions over the network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hrtem_stream.cli.console import print_json, say, settings_of
from hrtem_stream.cli.options import Json

Config = Annotated[
    Path | None, typer.Option("--config", help="Settings file that names the folder.")
]
Name = Annotated[str, typer.Argument(help="The host, as it stands in endpoints: gpu, 10.0.0.2.")]

keys_app = typer.Typer(
    no_args_is_help=True, help="Keys and token, for sessions that leave this host."
)


@keys_app.command("generate")
def generate(
    config: Config = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the keys.")] = False,
) -> None:
    """Make this host's pair of keys and its token; print the public key."""
    from hrtem_stream.runtime.access import make_token
    from hrtem_stream.transport.keys import generate_keys

    settings = settings_of(config, {})
    pair = generate_keys(settings.security_directory, overwrite=overwrite)
    make_token(settings.token_path)
    say(f"keys and token are in {settings.security_directory}; this is the public key:")
    print(pair.public.decode())


@keys_app.command("show")
def show(
    config: Config = None,
    token: Annotated[
        bool, typer.Option("--token", help="Print the token of metrics and page instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print this host's public key, for `keys allow` on the others, and whom it allows."""
    from hrtem_stream.runtime.access import read_token
    from hrtem_stream.transport.keys import allowed_keys, read_keys

    settings = settings_of(config, {})
    folder = settings.security_directory
    if token:
        print(read_token(settings.token_path))
        return
    public = read_keys(folder).public.decode()
    allowed = {name: key.decode() for name, key in allowed_keys(folder).items()}
    if as_json:
        print_json({"folder": str(folder), "public": public, "allowed": allowed})
        return
    print(public)
    for name, key in allowed.items():
        say(f"allows {name} {key}")


@keys_app.command("allow")
def allow(
    name: Name,
    key: Annotated[str, typer.Argument(help="Its public key, from `keys show` there.")],
    config: Config = None,
) -> None:
    """Accept another host by its public key; running sessions hear of it at once."""
    from hrtem_stream.transport import keys

    keys.allow(settings_of(config, {}).security_directory, name, key)


@keys_app.command("forget")
def forget(name: Name, config: Config = None) -> None:
    """Accept another host no more; what it has open stays until it is started anew."""
    from hrtem_stream.transport import keys

    keys.forget(settings_of(config, {}).security_directory, name)
