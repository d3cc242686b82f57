"""What every configuration file shares: blocks of checked keys, numbers with units, YAML without silent duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from grahame.hybrid.config_errors import explain_yaml

__all__ = ["AnyCase", "Block", "Count", "Interval", "Potential", "Temperature", "read_yaml", "unit", "wrong"]


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


class Block(BaseModel):
    """A block of the file: no unknown keys, no nan, no infinity."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, protected_namespaces=())


class _Loader(yaml.SafeLoader):
    """YAML without silent duplicates: of two equal keys the reader would keep the last."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if key in seen:
            raise ValueError(
                f"{key} = given in lines {seen[key]} and {line} must appear once: remove one of the two"
            )
        seen[key] = line
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: str | Path) -> tuple[object, Path]:
    """What a YAML file holds, and the folder it is in.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not YAML in UTF-8, or a key stands twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"config = {path} must be a file: give the path of a YAML configuration")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader), path.parent
    except UnicodeDecodeError:
        raise ValueError(f"config = {path} must be text in UTF-8: give the path of a YAML file") from None
    except yaml.YAMLError as error:
        raise ValueError(explain_yaml(path, error)) from None
