"""Whether a stage's source shows that it gives exactly one output for each sample."""

from __future__ import annotations

import ast
import functools
import inspect
from types import FunctionType
from typing import Any

from infobatch_client.tie.layers import functions_in, source_parameter

__all__ = ["shows_one_for_one"]

_NESTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.GeneratorExp)


class _UnclearError(Exception):
    """The number of outputs can't be told from the source."""


def shows_one_for_one(stage: object) -> bool:
    """True for a generator with one loop over its samples, in which every way yields once; a `map`, or an expression.

    False where a way through the loop skips a sample, or where there is no source to look at.
    """
    functions = list(functions_in(stage))
    try:
        return bool(functions) and all(_one_for_one(function) for function in functions)
    except (_UnclearError, OSError, TypeError, SyntaxError, ValueError):
        return False


def _one_for_one(function: FunctionType) -> bool:
    source = source_parameter(function)
    body = _body(function)
    nodes = [node for statement in body for node in ast.walk(statement)]
    if source is None or sum(isinstance(node, ast.Name) and node.id == source for node in nodes) != 1:
        return False
    if not inspect.isgeneratorfunction(function):
        last = body[-1]
        return isinstance(last, ast.Return) and len(body) == 1 and _is_mapped(last.value, source)
    loops = [statement for statement in body if isinstance(statement, ast.For) and _iterates(statement.iter, source)]
    if len(loops) != 1 or loops[0].orelse:
        return False
    others = sum(_count(statement) for statement in body if statement is not loops[0])
    live, skipped = _outcomes(loops[0].body)
    return others == 0 and live | skipped == {1}


def _body(function: FunctionType) -> list[Any]:
    """The statements of a function; a lambda's expression as one that returns it."""
    lines, _ = inspect.findsource(function)
    code = function.__code__
    parameters = list(code.co_varnames[: code.co_argcount])
    (found,) = [
        node
        for node in ast.walk(_parsed("".join(lines)))
        if isinstance(node, (ast.FunctionDef, ast.Lambda))
        and code.co_firstlineno == min([node.lineno, *(line.lineno for line in getattr(node, "decorator_list", ()))])
        and [parameter.arg for parameter in (*node.args.posonlyargs, *node.args.args)] == parameters
    ]
    return [ast.Return(found.body)] if isinstance(found, ast.Lambda) else found.body


@functools.lru_cache(maxsize=4)
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _is_mapped(value: ast.expr | None, source: str) -> bool:
    if isinstance(value, ast.GeneratorExp):
        (first, *more) = value.generators
        return not more and not first.ifs and _iterates(first.iter, source)
    is_map = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "map"
    return is_map and len(value.args) == 2 and _iterates(value.args[1], source)  # type: ignore[union-attr]


def _iterates(value: ast.expr, source: str) -> bool:
    """`source`, or `enumerate(source)` and the like."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in ("enumerate", "iter"):
        value = value.args[0] if value.args else value
    return isinstance(value, ast.Name) and value.id == source


def _outcomes(statements: list[ast.stmt]) -> tuple[set[int], set[int]]:
    """How many outputs the ways through these statements give: those that reach the end, and those that `continue`."""
    live, skipped = {0}, set[int]()
    for statement in statements:
        if isinstance(statement, ast.Continue):
            return set(), skipped | live
        if isinstance(statement, ast.Raise):
            return set(), skipped
        after, left = _outcomes_of(statement)
        skipped |= {before + count for before in live for count in left}
        live = {before + count for before in live for count in after}
    return live, skipped


def _outcomes_of(statement: ast.stmt) -> tuple[set[int], set[int]]:
    if isinstance(statement, ast.If):
        ways = [_outcomes(statement.body), _outcomes(statement.orelse)]
        return ways[0][0] | ways[1][0], ways[0][1] | ways[1][1]
    if isinstance(statement, ast.With):
        return _outcomes(statement.body)
    if isinstance(statement, ast.Try):
        if any(_outcomes(handler.body) != (set(), set()) for handler in statement.handlers):
            raise _UnclearError
        return _outcomes([*statement.body, *statement.orelse, *statement.finalbody])
    if isinstance(statement, (ast.For, ast.While)) and not _count(statement) and not _returns(statement):
        return {0}, set()  # a loop of its own, with its own break and continue
    if isinstance(statement, (ast.For, ast.While, ast.Break, ast.Return, ast.Match, ast.AsyncFor, ast.AsyncWith)):
        raise _UnclearError
    return {_count(statement)}, set()


def _count(node: ast.AST) -> int:
    """Its outputs, without those of functions inside."""
    if isinstance(node, ast.YieldFrom):
        raise _UnclearError
    if isinstance(node, _NESTED):
        return 0
    return isinstance(node, ast.Yield) + sum(_count(child) for child in ast.iter_child_nodes(node))


def _returns(statement: ast.stmt) -> bool:
    return any(isinstance(node, ast.Return) for node in ast.walk(statement))
