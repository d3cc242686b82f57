"""What every configuration file shares: blocks of checked keys, numbers with units, YAML without silent duplicates."""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from grahame.hybrid.config_errors import blocks_of, explain_yaml, show

__all__ = [
    "AnyCase",
    "Block",
    "Count",
    "Interval",
    "Potential",
    "Temperature",
    "located",
    "read_yaml",
    "unit",
    "wrong",
]


def unit(unit: str, description: str, **rules: Any) -> Any:
    """Metadata of one number: its unit (shown in errors), what it is, its bounds."""
    return Field(description=description, json_schema_extra={"unit": unit}, **rules)


def wrong(key: str, value: object, rule: str, remedy: str) -> PydanticCustomError:
    """An error that one key alone does not show, already in the house's words."""
    context = {"key": key, "value": value, "rule": rule, "remedy": remedy}
    return PydanticCustomError("house", "{key} must {rule}: {remedy}", context)


def _lower(value: object) -> object:
    """Names of methods and ensembles are accepted in any case: NVE, nve."""
    return value.lower() if isinstance(value, str) else value


AnyCase = BeforeValidator(_lower)


Potential = Annotated[float, unit("V", "held potential", ge=-100.0, le=100.0)]
Temperature = Annotated[float, unit("K", "temperature", gt=0.0, le=1e5)]
Count = Annotated[int, Field(ge=1, description="number of repeats")]
Interval = Annotated[int, unit("steps", "number of steps between writings", ge=1)]


def _parts(annotation: Any) -> Iterator[Any]:
    """An annotation and everything within it."""
    yield annotation
    for part in typing.get_args(annotation):
        yield from _parts(part)


def _holds_bool(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_bool, value.values()))
    return any(map(_holds_bool, value)) if isinstance(value, list | tuple) else isinstance(value, bool)


class Block(BaseModel):
    """A block of the file: no unknown keys, no nan, no infinity, no true or false for a number."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        """To Python true is the number 1, and YAML reads `yes` as true."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        admitted = list(_parts(annotation))
        numbers = (int in admitted or float in admitted) and bool not in admitted
        if numbers and not any(blocks_of(annotation)) and _holds_bool(value):
            shown = str(value).lower() if isinstance(value, bool) else show(value)
            rule = "be a number" if isinstance(value, bool) else "hold numbers"
            raise wrong(
                "", shown, rule, "YAML reads yes, no, on and off as true or false; write the number itself"
            )
        return value


def located(file: str, folder: Path) -> Path:
    """A path of a configuration: `~` is the home, anything else is relative to the folder of the file."""
    # Where there is no home, `~` stays what it is and is not found.
    return folder / os.path.expanduser(file)


class _Empty:
    """What stands behind a key with nothing behind it, which is not the word `null`."""


_EMPTY = _Empty()


class _Loader(yaml.SafeLoader):
    """YAML without silent duplicates: of two equal keys the reader would keep the last."""


def _null(loader: _Loader, node: yaml.ScalarNode) -> _Empty | None:
    return None if node.value else _EMPTY


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(
                problem="a key is a block or a list, as `{{ name }}` of a template that was not filled in",
                problem_mark=key_node.start_mark,
            )
        # What is merged, `<<: *other`, may be overruled by keys that stand here: only these count.
        merged = key_node.tag == "tag:yaml.org,2002:merge"
        key = key_node.value if merged else loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if key in seen:
            raise ValueError(
                f"{key} = given in lines {seen[key]} and {line} must appear once: remove one of the two"
            )
        seen[key] = line
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor("tag:yaml.org,2002:null", _null)


def _alternatives(annotation: Any) -> Iterator[type[BaseModel]]:
    """The blocks that may stand directly where an annotation is."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, Annotated):
        for part in typing.get_args(annotation):
            yield from _alternatives(part)


def _filled(value: object, annotation: Any) -> object:
    """Keys with nothing behind them: a block whose keys all have defaults is that block, anything else is none."""
    if isinstance(value, _Empty):
        blocks = _alternatives(annotation)
        optional = any(not any(f.is_required() for f in b.model_fields.values()) for b in blocks)
        return {} if optional else None
    if isinstance(value, list):
        return [_filled(item, annotation) for item in value]
    if not isinstance(value, dict):
        return value
    blocks_here = list(blocks_of(annotation))

    def of(key: object) -> Any:
        return next((b.model_fields[key].annotation for b in blocks_here if key in b.model_fields), None)

    return {key: _filled(item, of(key)) for key, item in value.items()}


def read_yaml(path: str | Path, root: type[BaseModel] | None = None) -> tuple[object, Path]:
    """What a YAML file holds, and the folder it is in.

    Args:
        root: the outermost block, which says where a key with nothing behind it means a block of defaults; None for no
            such keys.
    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not YAML in UTF-8, or a key stands twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"config = {path} must be a file: give the path of a YAML configuration")
    try:
        return _filled(yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader), root), path.parent
    except UnicodeDecodeError:
        raise ValueError(f"config = {path} must be text in UTF-8: give the path of a YAML file") from None
    except yaml.YAMLError as error:
        raise ValueError(explain_yaml(path, error)) from None
