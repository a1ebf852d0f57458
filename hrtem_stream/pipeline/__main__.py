"""One stage in its process: `python -m hrtem_stream.pipeline STAGE INDEX FOLDER PARENT`."""

from __future__ import annotations

import sys
from pathlib import Path

from hrtem_stream.pipeline.stages import run_stage
from hrtem_stream.runtime.process import die_with_parent
from hrtem_stream.settings import settings_from_json


def main(arguments: list[str]) -> int:
    """Run the stage that the arguments name; give its exit code."""
    name, index, runtime, parent = arguments
    die_with_parent(int(parent))
    text = (Path(runtime) / "settings.json").read_text(encoding="utf-8")
    return run_stage(name, int(index), settings_from_json(text))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
