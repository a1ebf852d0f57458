"""Draws docs/architecture.svg from the code: stages, topics, rooms. `python docs/architecture.py`.

Names of stages and topics are those of the settings, who gives and takes is read out of
`pipeline/stages.py`, and rooms are those of the import contract in pyproject.toml.
"""

import re
import sys
import tomllib
from html import escape
from pathlib import Path
from typing import get_args

from hrtem_stream.settings import ENDPOINT_NAMES, StageName

ROOT = Path(__file__).parents[1]
BOX, GAP, TOP = (150, 54), 86, 70
OPENED = r'(Publisher|Announcer|Subscriber)\(\s*context, settings.endpoint\("(\w+)"'
COLOURS = {"stage": "#dbe9f6", "outside": "#f3f3f3", "room": "#e8f1e4"}


def links() -> list[tuple[str, str, str]]:
    """Give topic, giver and taker of each connection between stages."""
    code = (ROOT / "hrtem_stream" / "pipeline" / "stages.py").read_text()
    gives: dict[str, str] = {}
    takes: list[tuple[str, str]] = []
    for stage, body in re.findall(r"\ndef _run_(\w+)\((.*?)(?=\ndef |\Z)", code, re.DOTALL):
        if stage not in get_args(StageName):
            continue
        told = dict(re.findall(r'(take|give)="(\w+)"', body))
        for kind, topic in re.findall(OPENED, body):
            if kind == "Subscriber":
                takes.append((topic, stage))
            else:
                gives[topic] = stage
        if told:
            takes.append((told["take"], stage))
            gives[told["give"]] = stage
    found = [(topic, gives[topic], stage) for topic, stage in takes if topic in gives]
    heard = {topic for topic, *_ in found}
    return [*found, *((topic, giver, "watchers") for topic, giver in gives.items()
                      if topic not in heard)]  # fmt: skip


def rooms() -> list[str]:
    """Give the rooms from the uppermost down; each imports only from below."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    layers = next(c["layers"] for c in tools["importlinter"]["contracts"] if c["type"] == "layers")
    return [re.sub(r"hrtem_stream\.|[()]", "", layer).replace("|", " · ") for layer in layers]


def draw() -> str:
    """Give the picture as SVG."""
    stages = get_args(StageName)
    places = {name: (30 + n * (BOX[0] + GAP), TOP) for n, name in enumerate(("feed", *stages))}
    places["watchers"] = (places[stages[-1]][0], TOP + 150)
    places["frame log"] = (places[stages[0]][0], TOP + 150)
    places["archive"] = (places[stages[-1]][0] + BOX[0] + GAP, TOP)
    parts = [_box(name, place) for name, place in places.items()]
    parts += [_arrow(places["feed"], places["ingest"], "")]
    parts += [_arrow(places["sort"], places["archive"], "")]
    parts += [_down(places["ingest"], places["frame log"], "raw pixels, once")]
    x, y = places["frame log"]
    parts += [f'<text class="topic" x="{x}" y="{y + 72}">read by normalise and sort</text>']
    for topic, giver, taker in links():
        if taker == "watchers":
            parts.append(_down(places[giver], places["watchers"], topic))
        elif places[taker][0] > places[giver][0]:
            parts.append(_arrow(places[giver], places[taker], topic))
        else:
            parts.append(_back(places[giver], places[taker], topic))
    y = TOP + 250
    parts.append(f'<text x="30" y="{y}" class="head">Rooms: imports point downwards only</text>')
    for n, room in enumerate(rooms()):
        parts.append(
            f'<rect x="30" y="{y + 14 + 32 * n}" width="{5 * BOX[0] + 4 * GAP}" height="26" rx="4" '
            f'fill="{COLOURS["room"]}" stroke="#888"/>'
            f'<text x="42" y="{y + 32 + 32 * n}">{escape(room)}</text>'
        )
    width, height = places["archive"][0] + BOX[0] + 30, y + 30 + 32 * len(rooms())
    style = (
        "text { font: 15px sans-serif; } .head { font-weight: bold; } .topic { font-size: 12px; }"
        " .middle { text-anchor: middle; }"
    )
    head = (
        '<marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10z"/></marker>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
        f"<style>{style}</style><defs>{head}</defs>"
        f'<rect width="{width}" height="{height}" fill="white"/>' + "\n".join(parts) + "</svg>\n"
    )


def _box(name: str, place: tuple[int, int]) -> str:
    colour = COLOURS["stage" if name in get_args(StageName) else "outside"]
    x, y = place
    look = f'width="{BOX[0]}" height="{BOX[1]}" rx="6" fill="{colour}" stroke="#555"'
    many = f'<rect x="{x + 6}" y="{y - 6}" {look}/>' if name == "segment" else ""
    text = f'<text class="middle" x="{x + BOX[0] // 2}" y="{y + 32}">{name}</text>'
    return f'{many}<rect x="{x}" y="{y}" {look}/>{text}'


def _line(points: str, label: str, at: tuple[float, float]) -> str:
    return (
        f'<polyline points="{points}" fill="none" stroke="black" marker-end="url(#a)"/>'
        f'<text class="topic middle" x="{at[0]}" y="{at[1]}">{label}</text>'
    )


def _arrow(a: tuple[int, int], b: tuple[int, int], label: str) -> str:
    y = a[1] + BOX[1] // 2
    x, end = a[0] + BOX[0], b[0]
    return _line(f"{x},{y} {end},{y}", label, ((x + end) / 2, y - 6))


def _down(a: tuple[int, int], b: tuple[int, int], label: str) -> str:
    x = a[0] + BOX[0] // 2
    return _line(f"{x},{a[1] + BOX[1]} {x},{b[1]}", label, (x + 52, (a[1] + BOX[1] + b[1]) / 2))


def _back(a: tuple[int, int], b: tuple[int, int], label: str) -> str:
    x, end, y = a[0] + BOX[0] // 2, b[0] + BOX[0] // 2, a[1] - 32
    return _line(f"{x},{a[1]} {x},{y} {end},{y} {end},{b[1]}", label, ((x + end) / 2, y - 6))


if __name__ == "__main__":
    unknown = {topic for topic, *_ in links()} ^ set(ENDPOINT_NAMES)
    if unknown:
        sys.exit(f"topics of settings and stages differ: {unknown}")
    (ROOT / "docs" / "architecture.svg").write_text(draw(), encoding="utf-8")
