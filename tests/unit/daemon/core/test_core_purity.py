"""The core decides and does nothing: this is what lets it run under a virtual clock."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import runyard_daemon.core

FOLDER = Path(runyard_daemon.core.__file__).parent
ALLOWED = {
    "__future__",
    "ast",
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "errno",
    "heapq",
    "math",
    "re",
    "runyard_contract",
    "runyard_daemon.core",
    "signal",
    "types",
    "typing",
}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_core_module_imports_nothing_that_acts(path: Path) -> None:
    tree = ast.parse(path.read_text())

    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }

    strangers = {
        name
        for name in imported
        if not any(name == known or name.startswith(f"{known}.") for known in ALLOWED)
    }
    assert strangers == set()
    assert not called & {"open", "print", "input", "exec", "eval"}
