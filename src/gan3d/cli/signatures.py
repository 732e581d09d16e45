"""Signatures of the verbs' functions, read from their source: nothing is imported, as torch takes
seconds.

The stand-in of a function has its arguments, annotations, defaults, docstring and the checks that
it begins with (statements that use nothing but `LIGHT` modules), and returns its arguments. A
parser made of it answers help and refuses wrong values at once; the function itself is imported
when there is something to do.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
LIGHT = ("gan3d.cli.checks", "gan3d.cli.choices", "gan3d.cli.messages", "gan3d.cli.scores")


def stand_in(target: str) -> Callable[..., dict[str, Any]]:
    """A function with the signature and the docstring of another one, which returns its arguments.

    Args:
        target: "module:function" of gan3d.
    """
    module, _, name = target.partition(":")
    source, node = _definition(module, name)
    assert isinstance(node, ast.FunctionDef), f"{target} is no function"
    parameters = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
    documentation = node.body[: ast.get_docstring(node) is not None]
    checks = _checks(source, node.body[len(documentation) :], parameters)
    parts = (*_evaluated(node.args), *checks)
    words = set().union(*(_names(part, ast.Load) for part in parts))
    own = {*parameters, *(word for check in checks for word in _names(check, ast.Store))}
    # Without a package's name, jsonargparse does not look for it (and import all of gan3d).
    namespace = {"__name__": "__main__"} | {word: _value(source, word) for word in words - own}

    pairs = ", ".join(f"{name!r}: {name}" for name in parameters)
    body = [*documentation, *checks, *ast.parse(f"return {{{pairs}}}").body]
    stub = ast.FunctionDef(name, node.args, body, decorator_list=[], lineno=1, col_offset=0)
    program = ast.fix_missing_locations(ast.Module([stub], []))
    exec(compile(program, str(_path(source)), "exec", dont_inherit=True), namespace)
    return namespace[name]


def _checks(module: str, body: list[ast.stmt], parameters: list[str]) -> list[ast.stmt]:
    """The first statements of a function that use only its arguments, light modules, and what
    comes of these.
    """
    known, checks = set(parameters), []
    for statement in body:
        known |= _names(statement, ast.Store)
        if not all(_is_light(module, word) for word in _names(statement, ast.Load) - known):
            break
        checks.append(statement)
    return checks


def _is_light(module: str, word: str) -> bool:
    """Whether a name of a module is Python's, of a light module, or a constant."""
    if hasattr(builtins, word):
        return True
    try:
        source, node = _definition(module, word)
    except LookupError:
        return False
    return source in LIGHT or isinstance(getattr(node, "value", None), ast.Constant)


def _names(node: ast.AST, use: type[ast.expr_context]) -> set[str]:
    """Variables that a piece of source reads (ast.Load) or sets (ast.Store)."""
    found = [word for word in ast.walk(node) if isinstance(word, ast.Name)]
    return {word.id for word in found if isinstance(word.ctx, use)}


def _evaluated(arguments: ast.arguments) -> list[ast.AST]:
    """Annotations and defaults."""
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    found = [argument.annotation for argument in every]
    return [node for node in (*found, *arguments.defaults, *arguments.kw_defaults) if node]


def _value(module: str, name: str) -> Any:
    """What a name stands for in a module: of Python, of its standard library, or an expression of
    such names (`Literal["a", "b"]`).
    """
    if hasattr(builtins, name):
        return getattr(builtins, name)
    source, node = _definition(module, name)
    if node is None:
        return getattr(importlib.import_module(source), name)
    assert isinstance(node, (ast.Assign, ast.AnnAssign)), f"{source}.{name}"
    assert node.value is not None
    code = compile(ast.Expression(node.value), str(_path(source)), "eval", dont_inherit=True)
    return eval(code, {word: _value(source, word) for word in _names(node.value, ast.Load)})


def _definition(module: str, name: str) -> tuple[str, ast.stmt | None]:
    """(module, statement) where a name is defined, past the modules that only hand it on; no
    statement for a module that can be imported at once.
    """
    if module in LIGHT or module.split(".")[0] in sys.stdlib_module_names:
        return module, None
    imported = None
    for node in ast.parse(_path(module).read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return module, node
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return module, node
        if isinstance(node, ast.ImportFrom) and name in (a.asname or a.name for a in node.names):
            imported = node.module
    if imported is None:
        raise LookupError(f"{module} defines no {name}")
    return _definition(imported, name)


def _path(module: str) -> Path:
    folder = PACKAGE.joinpath(*module.split(".")[1:])
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
