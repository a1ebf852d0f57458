"""A short run of what `make fuzz` does for long, and the rule that nothing is ever unpickled."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hrtem_stream
from tests.fuzz import all_targets, fuzz

PACKAGE = Path(hrtem_stream.__file__).parent
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {"eval", "exec", "recv_pyobj", "send_pyobj", "read_pickle", "unsafe_load"}


# Third-party readers warn of what is odd in a damaged file.
@pytest.mark.filterwarnings("ignore")
def test_no_decoder_fails_but_by_refusing(tmp_path: Path) -> None:
    with all_targets(tmp_path) as targets:
        n_inputs, failures = fuzz(targets, seed=4, n_rounds=150, seconds=15)
    assert n_inputs >= len(targets)
    assert not failures, f"{failures[0].target}: {failures[0].trace}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_nothing_is_unpickled_or_evaluated(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not UNSAFE_MODULES & {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in UNSAFE_MODULES
        elif isinstance(node, ast.Call):
            _check_call(node)


def _check_call(node: ast.Call) -> None:
    function = node.func
    owner = function.value if isinstance(function, ast.Attribute) else None
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    where = f"line {node.lineno}: {ast.unparse(node)[:80]}"
    if owner is None:
        assert name not in UNSAFE_CALLS, where
    assert name not in UNSAFE_CALLS - {"eval", "exec"}, where
    assert given.get("allow_pickle", "False") == "False", where
    if name == "load" and owner is not None and ast.unparse(owner) in ("np", "numpy", "torch"):
        safe = "weights_only" if ast.unparse(owner) == "torch" else "allow_pickle"
        assert given.get(safe) == ("True" if safe == "weights_only" else "False"), where
