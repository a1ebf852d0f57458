"""The page of a session as a process of its own: `python -m hrtem_stream.web FOLDER PARENT`."""

from __future__ import annotations

import sys
from pathlib import Path

from hrtem_stream.errors import HrtemError
from hrtem_stream.runtime.log import set_up_logging
from hrtem_stream.runtime.process import die_with_parent
from hrtem_stream.settings import Settings, settings_from_json

SUMMARIES_KEPT = 128


def serve_session(settings: Settings) -> None:
    """Serve the page of a session that runs, or will."""
    from hrtem_stream.runtime.access import token_for
    from hrtem_stream.transport.guard import Guard
    from hrtem_stream.transport.sockets import Subscriber, make_context
    from hrtem_stream.web.app import serve
    from hrtem_stream.web.watch import Watch

    is_open = settings.security.insecure == "everything"
    hearing = Subscriber(
        make_context(), settings.endpoint("summaries"), bind=False, topics=[b""],
        high_water=SUMMARIES_KEPT,
        guard=Guard(settings.security_directory, is_open=is_open),
    )  # fmt: skip
    token = (
        None
        if is_open
        else token_for(settings.metrics.host, settings.token_path, what="metrics.host")
    )
    settings.runtime_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    watch = Watch(settings, hearing=hearing, metrics_token=token)
    serve(settings, watch, announce=announce)


def announce(link: str, guest_link: str | None) -> None:
    """Say on stderr where the page is."""
    for_guests = f", for guests {guest_link}" if guest_link else ""
    print(f"page      {link}{for_guests}", file=sys.stderr, flush=True)  # noqa: T201


def _main(arguments: list[str]) -> int:
    runtime, parent = arguments
    die_with_parent(int(parent))
    settings = settings_from_json((Path(runtime) / "settings.json").read_text(encoding="utf-8"))
    set_up_logging(settings.session.log_level, "page")
    try:
        serve_session(settings)
    except HrtemError as error:
        print(f"hrtem-stream: page: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
