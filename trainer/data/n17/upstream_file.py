"""Modality configs in upstream's Python files, read without running them.

Upstream's ``--modality-config-path`` imports a module that builds ``ModalityConfig`` objects and registers them. Such a
file holds hardly more than literals, so its syntax tree says it all: names, lists, ``list(range(16))``, the two classes
and their enums. Anything else is refused with its line.

``python -m trainer.data.n17.upstream_file FILE.py`` prints the data config as TOML.
"""

from __future__ import annotations

import ast
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.data.config_file import LARGEST, to_toml
from trainer.data.data_config import DataConfig
from trainer.data.modality_config import from_upstream
from trainer.data.n17.embodiments import tag_of
from trainer.errors import PippaError, UsageError

_FIELDS = {
    "ModalityConfig": (
        "delta_indices",
        "modality_keys",
        "sin_cos_embedding_keys",
        "mean_std_embedding_keys",
        "action_configs",
    ),
    "ActionConfig": ("rep", "type", "format", "state_key"),
}
"""The fields of upstream's classes, in the order of their arguments."""
_ENUMS = ("ActionRepresentation", "ActionType", "ActionFormat", "EmbodimentTag")
_LONGEST = 1024
"""Elements of a list."""


def read_file(path: Path) -> dict[str, DataConfig]:
    """The data configs that a Python file of upstream's registers, by embodiment tag; none of it is run.

    Raises ``UsageError`` with the line of what can't be read, or the key of what can't be trained.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its other end
            raise UsageError(f"{path}: not a regular file.", "Name the Python file that declares modality configs.")
        with path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise UsageError(f"{path}: larger than {LARGEST // 1024} KiB.", "A modality config is a few lines long.")
        tree = ast.parse(content)
    except FileNotFoundError:
        raise UsageError(f"There is no file {path}.", "Name the Python file that declares modality configs.") from None
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"{path}: can't be read as Python ({error}).", "Correct the file.") from error
    try:
        found = _Reader(path).registered(tree)
    except RecursionError:
        raise UsageError(f"{path}: nested too deep.", _CURE) from None
    if not found:
        raise UsageError(
            f"{path}: registers no modality config.", "It must call register_modality_config, as upstream's files do."
        )
    name = path.stem.lstrip("._-")
    return {tag: from_upstream(values, name or tag, f"{path}: {tag}") for tag, values in found.items()}


_CURE = "Write it out as a literal, or declare the data config in TOML (docs/data.md)."


class _Reader:
    """Evaluates the few expressions that such files are made of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: dict[str, Any] = {}

    def registered(self, tree: ast.Module) -> dict[str, Any]:
        """The dictionaries given to ``register_modality_config``, by embodiment tag."""
        found: dict[str, Any] = {}
        for statement in tree.body:
            match statement:
                case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Expr(value=ast.Constant()):
                    pass
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self.names[name] = self.value(value)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    self.names[name] = self.value(value)
                case ast.Expr(value=ast.Call(func=func) as call) if _name(func) == "register_modality_config":
                    config, tag = self._registration(call)
                    found[tag] = config
                case _:
                    raise self._refused(statement, "only assignments and register_modality_config are read")
        return found

    def _registration(self, call: ast.Call) -> tuple[Any, str]:
        given = self._arguments(call, ("config", "embodiment_tag"))
        if "config" not in given:
            raise self._refused(call, "register_modality_config without a config")
        return given["config"], tag_of(str(given.get("embodiment_tag", "new_embodiment")))

    def _arguments(self, call: ast.Call, fields: tuple[str, ...]) -> dict[str, Any]:
        if len(call.args) > len(fields) or any(keyword.arg is None for keyword in call.keywords):
            raise self._refused(call, "arguments that are not named one by one")
        given = {name: self.value(value) for name, value in zip(fields, call.args, strict=False)}
        return given | {str(keyword.arg): self.value(keyword.value) for keyword in call.keywords}

    def value(self, node: ast.expr) -> Any:
        """What an expression means."""
        match node:
            case ast.Constant(value=str() | int() | bool() | None as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as value)):
                return -value
            case ast.Name(id=name) if name in self.names:
                return self.names[name]
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return self._bounded(node, [self.value(each) for each in elements])
            case ast.Dict(keys=keys, values=values) if all(keys):
                return {self.value(key): self.value(value) for key, value in zip(keys, values, strict=True) if key}
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._bounded(node, self._list(left) + self._list(right))
            case ast.Attribute(value=owner, attr=name) if _name(owner) in _ENUMS:
                return name
            case ast.Call(func=ast.Name(id="list" | "tuple"), args=[of], keywords=[]):
                return self._list(of)
            case ast.Call(func=ast.Name(id="range"), args=bounds, keywords=[]):
                return self._range(node, [self.value(bound) for bound in bounds])
            case ast.Call(func=func) if (name := _name(func)) in _FIELDS:
                return self._arguments(node, _FIELDS[name])
        raise self._refused(node, "this expression is not read")

    def _list(self, node: ast.expr) -> list[Any]:
        value = self.value(node)
        if not isinstance(value, list):
            raise self._refused(node, "not a list")
        return value

    def _range(self, node: ast.expr, bounds: list[Any]) -> list[int]:
        try:
            numbers = range(*bounds)
        except (TypeError, ValueError) as error:
            raise self._refused(node, str(error)) from None
        return self._bounded(node, numbers)

    def _bounded(self, node: ast.expr, values: list[Any] | range) -> list[Any]:
        if len(values) > _LONGEST:
            raise self._refused(node, f"more than {_LONGEST} elements")
        return list(values)

    def _refused(self, node: ast.AST, why: str) -> UsageError:
        return UsageError(f"{self.path}, line {getattr(node, 'lineno', '?')}: {why}.", _CURE)


def _name(node: ast.expr) -> str:
    """The last part of a dotted name; empty for another expression."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def main(argv: Sequence[str]) -> int:
    """Print the data configs of a file, each under its embodiment tag; returns the exit code."""
    if len(argv) != 1:
        sys.stderr.write("usage: python -m trainer.data.n17.upstream_file FILE.py\n")
        return 2
    try:
        found = read_file(Path(argv[0]))
    except PippaError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    for tag, config in found.items():
        sys.stdout.write(f"# embodiment tag: {tag}\n{to_toml(config)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
