"""Run benchmarks: `python -m bench [NAME ...] [-- OPTIONS]`; without a name, all quick ones."""

from __future__ import annotations

import importlib
import sys

QUICK = ("normalise", "bragg", "archive", "unet", "pipeline")


def main() -> None:
    arguments = sys.argv[1:]
    options = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
    names = [word for word in arguments if word != "--" and word not in options]
    for name in names or QUICK:
        try:
            module = importlib.import_module(f"bench.{name}")
        except ModuleNotFoundError as error:
            sys.exit(f"there is no benchmark {name}: {error}")
        print(f"== {name}", flush=True)
        sys.argv = [f"bench.{name}", *options]
        module.main()


if __name__ == "__main__":
    main()
