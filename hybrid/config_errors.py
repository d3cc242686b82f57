"""Sentences for wrong configurations: which key, which value, which rule, what to do."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

_RULES = {
    "greater_than": "be greater than {gt}",
    "greater_than_equal": "be at least {ge}",
    "less_than": "be less than {lt}",
    "less_than_equal": "be at most {le}",
    "too_short": "hold at least {min_length} values",
    "too_long": "hold at most {max_length} values",
    "finite_number": "be finite",
    "string_pattern_mismatch": "start with a letter or digit and hold only letters, digits and . _ + -",
}
_TYPES = {
    "float_parsing": "be a number",
    "float_type": "be a number",
    "int_parsing": "be a whole number",
    "int_type": "be a whole number",
    "int_from_float": "be a whole number",
    "string_type": "be text",
    "model_type": "be a block of keys",
    "model_attributes_type": "be a block of keys",
    "dict_type": "be a block of keys",
}


def blocks_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """All blocks that an annotation admits (`X | None`, `tuple[X, ...]`)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from blocks_of(part)


def _metadata(annotation: Any) -> Iterator[FieldInfo]:
    for part in getattr(annotation, "__metadata__", ()):
        if isinstance(part, FieldInfo):
            yield part
    for part in typing.get_args(annotation):
        yield from _metadata(part)


def _describe(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[type[BaseModel], str, str]:
    """The block that holds the last key of a location, and that key's unit and description."""
    unit = description = ""
    branches: dict[str, type[BaseModel]] = {}
    for part in location:
        if not isinstance(part, str) or part not in model.model_fields:
            model = branches.get(str(part), model)
            continue
        info = model.model_fields[part]
        unit = description = ""
        for source in (*_metadata(info.annotation), info):
            extra = source.json_schema_extra
            if isinstance(extra, dict) and "unit" in extra:
                unit = str(extra["unit"])
            description = source.description or description
        for inner in blocks_of(info.annotation):
            model, unit, description = inner, "", description
        branches = _branches(info.annotation)
    return model, unit, description


def _branches(annotation: Any) -> dict[str, type[BaseModel]]:
    """The blocks of a union that is told apart by their key `kind`."""
    blocks = [m for m in blocks_of(annotation) if "kind" in m.model_fields]
    return {str(m.model_fields["kind"].default): m for m in blocks}


def _name(model: type[BaseModel], location: tuple[int | str, ...], of_unions: bool = True) -> str:
    """Dotted name; the labels that a union adds (`float`, `literal[...]`) are no keys of the file.

    Args:
        of_unions: name the keys within a dict that is one branch of a union too.
    """
    parts: list[str] = []
    branches: dict[str, type[BaseModel]] = {}
    keyed = False  # the next part is a key of a dict
    for part in location:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        elif keyed:
            parts.append(f".{part}")
            keyed = False
        elif part in model.model_fields:
            parts.append(f".{part}")
            annotation = model.model_fields[part].annotation
            for inner in blocks_of(annotation):
                model = inner
            branches = _branches(annotation)
            keyed = typing.get_origin(annotation) is dict
        else:
            model = branches.get(part, model)
            keyed = of_unions and part.startswith("dict[")
    return "".join(parts).lstrip(".")


def show(value: object) -> str:
    """A value as it was written, long ones cut off."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _sentence(root: type[BaseModel], error: ErrorDetails) -> str:
    location, kind, value = error["loc"], error["type"], error["input"]
    context = error.get("ctx", {})
    if kind == "extra_forbidden":
        block, _, _ = _describe(root, location[:-1])
        prefix = _name(root, location[:-1])
        key = str(location[-1])
        known = sorted(block.model_fields)
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        remedy = f"did you mean `{near[0]}`?" if near else f"the keys here are {', '.join(known)}"
        return f"{f'{prefix}.{key}'.lstrip('.')} = {show(value)} must be a known key: {remedy}"
    name = _name(root, location) or "configuration"
    _, unit, description = _describe(root, location)
    if kind == "missing" and isinstance(location[-1], int):
        return f"{name.rpartition('[')[0]} = {location[-1]} values must be more: add the missing ones"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{name} = {show(value)} must be a block of keys: write the keys below it, indented"
    if kind == "missing":
        return f"{name} = nothing must be given: add the key `{name.rpartition('.')[2]}`"
    if kind == "house":
        name = ".".join(part for part in (_name(root, location), str(context["key"])) if part)
        return f"{name or 'configuration'} = {context['value']} must {context['rule']}: {context['remedy']}"
    if kind in ("list_type", "tuple_type"):
        remedy = (
            f"give the {description}"
            if description
            else "write its items in brackets, or below it with dashes"
        )
        return f"{name} = {show(value)} must be a list: {remedy}"
    if kind in ("bool_parsing", "bool_type"):
        return f"{name} = {show(value)} must be true or false: write one of the two"
    if kind == "value_error" and " must " in str(context["error"]):
        # A block that is no `Block` says it itself, without knowing where it stands.
        own = re.sub(r"^(\w+) of (\w+) =", r"\1.\2 =", str(context["error"]))
        return ".".join(part for part in (_name(root, location), own) if part)
    shown = f"{show(value)} {unit}".rstrip() if isinstance(value, int | float) else show(value)
    if kind == "literal_error":
        choices = [c.strip("' ") for c in str(context["expected"]).replace(" or ", ",").split(",")]
        # Of short names only a close one is meant: nvt is not nve.
        near = difflib.get_close_matches(str(value).lower(), choices, n=1, cutoff=0.7)
        remedy = f"did you mean `{near[0]}`?" if near else "choose one of them"
        return f"{name} = {shown} must be one of {', '.join(choices)}: {remedy}"
    remedy = (
        f"give the {description} in {unit}"
        if unit not in ("", "steps")
        else f"give the {description}"
        if description
        else "change it"
    )
    if kind in _RULES:
        bounds = {k: f"{v:g}" if isinstance(v, float) else v for k, v in context.items()}
        rule = _RULES[kind].format(**bounds) + (f" {unit}" if unit and "_than" in kind else "")
        return f"{name} = {shown} must {rule}: {remedy}"
    if kind in _TYPES or kind == "house-type":
        rule = context["rule"] if kind == "house-type" else _TYPES[kind]
        return f"{name} = {shown} must {rule}: {remedy}{', without writing the unit' if unit else ''}"
    return f"{name} = {shown} must be valid: {error['msg'][:1].lower()}{error['msg'][1:]}; {remedy}"


def _representative(errors: list[ErrorDetails]) -> ErrorDetails:
    """Of the branches of a union (a word or a number, a number or a list) the one that was meant."""
    if len(errors) == 1:
        return errors[0]
    value = errors[0]["input"]
    if isinstance(value, dict):
        within = [e for e in errors if any(str(p).startswith("dict[") for p in e["loc"][:-1])]
        return within[0] if within else errors[0]
    if isinstance(value, int | float):
        bounds = [e for e in errors if e["type"] in _RULES]
        return bounds[0] if bounds else errors[0]
    if isinstance(value, list | tuple):
        return errors[-1]
    words = [e for e in errors if e["type"] == "literal_error"]
    numbers = [e for e in errors if e["type"] == "float_parsing"]
    if words and numbers:
        choice = f"be {words[0]['ctx']['expected']} or a number".replace("'", "`")
        return {**numbers[0], "type": "house-type", "ctx": {"rule": choice}}
    return errors[0]


def explain(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """One sentence per wrong key, in the house's form, joined by newlines.

    Args:
        error: what pydantic raised for `model` (the run configuration when left out).
        model: the outermost block.
    """
    if model is None:
        from grahame.hybrid.config import RunConfig

        model = RunConfig
    by_key: dict[str, list[ErrorDetails]] = {}
    for number, detail in enumerate(error.errors(include_url=False)):
        own = detail["type"] in ("extra_forbidden", "house")
        by_key.setdefault(str(number) if own else _name(model, detail["loc"], False), []).append(detail)
    sentences = [_sentence(model, _representative(details)) for details in by_key.values()]
    return "\n".join(sentences)


def explain_yaml(path: Path, error: yaml.YAMLError) -> str:
    """One sentence for a file that is not YAML."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "it cannot be read"
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return f"config = {path}{where} must be YAML: {problem}; check the indentation, colons and quotes there"
