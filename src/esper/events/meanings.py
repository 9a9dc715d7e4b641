"""The docstrings of fields, which Python does not keep: read from the source when a schema or a table is made."""

import ast
import inspect
import textwrap
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
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
        assert isinstance(definition, ast.ClassDef)
        for field, after in pairwise(definition.body):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    meanings[name] = inspect.cleandoc(text)
    return meanings
