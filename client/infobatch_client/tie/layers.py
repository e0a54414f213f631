"""The functions and classes of which a pipeline stage is made, inside of its wrappers."""

from __future__ import annotations

import dis
import functools
import inspect
import itertools
from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

from webdataset import filters

__all__ = ["calls_on_source", "functions_in", "layers", "source_parameter"]

_MOST = 32
_SILENT = {"CACHE", "COPY_FREE_VARS", "MAKE_CELL", "PRECALL", "PUSH_NULL", "RESUME"}
_NO_CODE: tuple[type, ...] = (ModuleType, str, bytes, int, float, type(None))


def layers(stage: object) -> Iterator[Any]:
    """The stage, and what it wraps: partials, webdataset's curried filters, methods, decorated functions, classes."""
    todo, seen = [stage], list[object]()
    while todo and len(seen) < _MOST:
        layer = todo.pop(0)
        if any(layer is other for other in seen):
            continue
        seen.append(layer)
        yield layer
        if isinstance(layer, functools.partial):
            todo.append(layer.func)
        elif isinstance(layer, (filters.FilterFunction, filters.RestCurried)):
            todo.append(layer.f)
        elif inspect.ismethod(layer):
            todo.append(layer.__func__)
        elif isinstance(layer, type):
            todo += [base for base in layer.__mro__ if base is not object]
        elif not isinstance(layer, (FunctionType, *_NO_CODE)):
            kind = type(layer)
            todo.append(kind)
            todo += [vars(base)[name] for name in ("run", "__call__") for base in kind.__mro__ if name in vars(base)][
                :2
            ]
        for wrapped in ("__wrapped__", "stage"):  # a decorator's, and that of a stage with a declaration
            if (inner := inspect.getattr_static(layer, wrapped, None)) is not None and callable(inner):
                todo.append(inner)


def source_parameter(function: FunctionType) -> str | None:
    """The name of the parameter by which a stage's function receives the samples."""
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    named = names[1:] if names[:1] == ("self",) else names
    return named[0] if named else None


def calls_on_source(function: FunctionType) -> Iterator[Any]:
    """The objects that a function calls with its samples as first argument, as in `islice(samples, …)`.

    Found by its code: names of the module, of closures, and attributes of these.
    """
    source = source_parameter(function)
    code = [step for step in dis.get_instructions(function) if step.opname not in _SILENT]
    for at, step in enumerate(code):
        names = step.argval if isinstance(step.argval, tuple) else (step.argval,)
        if source is not None and step.opname.startswith(("LOAD_FAST", "LOAD_DEREF")) and names[0] == source:
            yield from _resolved(function, code[:at])


def _resolved(function: FunctionType, code: list[dis.Instruction]) -> Iterator[Any]:
    """The object that is on top of the stack after these instructions, if names and attributes have put it there."""
    attributes: list[str] = []
    while code and code[-1].opname in ("LOAD_ATTR", "LOAD_METHOD"):
        attributes.insert(0, str(code.pop().argval))
    if not code:
        return
    step = code[-1]
    known: Mapping[str, Any] = {}
    if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
        known = function.__globals__
    elif step.opname == "LOAD_DEREF":
        known = dict(_closure(function))
    found = known.get(str(step.argval))
    for attribute in attributes:
        found = inspect.getattr_static(found, attribute, None)
    if found is not None:
        yield found


def _closure(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Names and values of a function's closure, without those that aren't assigned yet."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:
            continue


def functions_in(stage: object) -> Iterator[FunctionType]:
    """Those of a stage's layers that have code."""
    return (layer for layer in itertools.islice(layers(stage), _MOST) if isinstance(layer, FunctionType))
