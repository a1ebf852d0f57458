"""Run benchmarks: `python -m bench [NAME ...] [--json] [--output FILE] [--seconds S]`.

Without a name all of them run, in less than ten minutes with the default of seconds, except
`peers`, which installs other programs, `page`, which opens a browser, and `memory`, which watches
a session for ten minutes. `--json` prints one object; `--output` writes it, too. Each benchmark is
a module with `measure(seconds) -> list[Row]`. Other modules of this folder, whose results are no
such rows, run by themselves: `python -m bench NAME -- OPTIONS`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from bench.row import Row, line, report

NAMES = (
    "normalise",
    "bragg",
    "run_length",
    "archive",
    "unet",
    "transport",
    "pipeline",
    "page",
    "watcher",
    "memory",
    "peers",
)
SLOW = ("page", "memory", "peers")


def main() -> None:
    if len(sys.argv) > 1 and _is_other(sys.argv[1]):
        name = f"bench.{sys.argv[1]}"
        sys.argv = [name, *(word for word in sys.argv[2:] if word != "--")]
        importlib.import_module(name).main()
        return
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--output", type=Path, help="write the JSON object to a file as well")
    parser.add_argument("--seconds", type=float, default=0.0, help="time for each measurement")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"benchmark must be one of {', '.join(NAMES)}, got {unknown[0]}")
    rows: list[Row] = []
    for name in options.names or [name for name in NAMES if name not in SLOW]:
        print(f"== {name}", file=sys.stderr, flush=True)
        for one in importlib.import_module(f"bench.{name}").measure(options.seconds):
            rows.append(one)
            if not options.json:
                print(line(one), flush=True)
    text = json.dumps(report(rows), indent=1)
    if options.json:
        print(text)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")


def _is_other(name: str) -> bool:
    """Tell whether a module of this folder is none of the benchmarks."""
    return name not in NAMES and (Path(__file__).parent / f"{name}.py").exists()


if __name__ == "__main__":
    main()
