"""One stage in its process: `python -m hrtem_stream.pipeline STAGE INDEX FOLDER PARENT`.

STAGE may be `structures`, too, which is none: see `structures`.
With `recover FOLDER PARENT` it finishes what an earlier session left there.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from hrtem_stream.pipeline.stages import run_stage
from hrtem_stream.runtime.log import set_up_logging
from hrtem_stream.runtime.process import die_with_parent
from hrtem_stream.settings import settings_from_json

logger = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    """Run the stage that the arguments name; give its exit code."""
    if arguments[0] == "recover":
        return _recover(Path(arguments[1]), int(arguments[2]))
    name, index, runtime, parent = arguments
    die_with_parent(int(parent))
    settings = settings_from_json((Path(runtime) / "settings.json").read_text(encoding="utf-8"))
    if name == "structures":
        from hrtem_stream.pipeline.structures import run_structures

        return run_structures(settings)
    return run_stage(name, int(index), settings)


def _recover(folder: Path, parent: int) -> int:
    """Finish what is left in a folder, with the settings on stdin."""
    from hrtem_stream.pipeline.recovery import recover_folder

    die_with_parent(parent)
    settings = settings_from_json(sys.stdin.read())
    set_up_logging(settings.session.log_level, "recover")
    for archive in recover_folder(folder, settings=settings).archives:
        logger.warning(
            "%s: received %d = archived %d + lost %d",
            archive.archive, archive.received, archive.archived, archive.lost,
        )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
