"""Make the table of speed in docs/measured.md: `python -m bench.tables RESULTS.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- speed: made by python -m bench.tables -->", "<!-- end of speed -->"
PAGE = Path(__file__).parents[1] / "docs" / "measured.md"


def main() -> None:
    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        sys.exit(f"{PAGE} must hold {BEGIN} and {END}")
    PAGE.write_text(f"{before}{BEGIN}\n{table(found)}{END}{after}", encoding="utf-8")


def table(found: dict[str, Any]) -> str:
    """Give a Markdown table of rows, and the machine they were measured on."""
    on = found["machine"]
    lines = [
        "",
        f"{on['processor']}, {on['n_processors']} processors, Python {on['python']}, {on['when']}, "
        f"load {on['load']}:",
        "",
        "| what (reference; limit) | median (low, high) | × reference | × limit |",
        "|---|---|---|---|",
    ]
    for one in found["rows"]:
        spread = f"{one['low']:.3g}, {one['high']:.3g}"
        lines.append(
            f"| {one['name']} | {one['median']:.3g} {one['unit']} ({spread}) "
            f"| {_ratio(one['ratio_to_reference'])} | {_ratio(one['ratio_to_limit'])} |"
        )
    return "\n".join(lines) + "\n\n"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    main()
