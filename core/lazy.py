"""Packages whose public names load their modules only when they are asked for (PEP 562)."""

import ast
import importlib
from pathlib import Path
from typing import Any


def exports(package: str, file: str) -> tuple[Any, Any, Any]:
    """The `__all__`, `__getattr__` and `__dir__` of a package, by its `__name__` and `__file__`.

    The names are those that the file imports as themselves under `if TYPE_CHECKING`.
    """
    modules = {
        alias.asname: str(node.module)
        for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(importlib.import_module(modules[name]), name)

    return list(modules), get, lambda: sorted(modules)
