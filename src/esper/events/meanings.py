"""The docstrings of fields, which Python does not keep: read from the source when a schema or a table is made."""

import ast
import inspect
import sys
from collections.abc import Mapping
from functools import cache
from itertools import pairwise

from pydantic import BaseModel

from esper.events.fields import Part, RowColumns


@cache
def field_meanings(model: type[BaseModel]) -> dict[str, str]:
    """The docstring under each field of `model`, by the field's name; of columns, those of their row.

    Pydantic can keep them too, and takes twice as long to import every kind.
    """
    if issubclass(model, RowColumns):
        return field_meanings(model.ROW)
    meanings: dict[str, str] = {}
    for part in reversed([part for part in model.__mro__ if issubclass(part, Part)]):
        for field, after in pairwise(_classes_of(part.__module__)[part.__name__].body):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    meanings[name] = inspect.cleandoc(text)
    return meanings


@cache
def _classes_of(module: str) -> Mapping[str, ast.ClassDef]:
    """The classes of a module, by name. `inspect.getsource` of a class parses all of its module, each time."""
    return {node.name: node for node in ast.parse(inspect.getsource(sys.modules[module])).body if isinstance(node, ast.ClassDef)}
