"""Mistakes on the command line itself, in the words of all other errors.

Typer's exceptions differ from version to version; what they know of is read where it is there, and where it is not their
own sentence serves.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

__all__ = ["usage_sentence"]


def usage_sentence(error: Any, words: Sequence[str]) -> str:
    """`<name> = <value> must <rule>: <what to do>` of what typer raises before a command runs.

    Args:
        error: typer's exception, with `format_message`.
        words: the arguments that were given, without the program's name.
    """
    message = str(error.format_message())
    command = _command(error, words)
    remedy = f"see `{command} --help`"
    option = getattr(error, "option_name", None)
    kind = type(error).__name__
    if kind == "NoSuchOption":
        meant = " or ".join(getattr(error, "possibilities", None) or [])
        return f"option = {option} must be one of {command}: {f'did you mean {meant}?' if meant else remedy}"
    if kind == "BadOptionUsage":
        if "requires" in message:
            return f"{option} = nothing must be given: {remedy}"
        return f"{option} must be given without a value: {remedy}"
    if kind == "MissingParameter":
        return f"{_label(error.param)} = nothing must be given: {remedy}"
    if kind == "BadParameter" and getattr(error, "param", None) is not None:
        return f"{_label(error.param)} = {_given(error.param, words)} must be {_rule(str(error.message))}: {remedy}"
    if not message:  # no command at all, the help was printed
        return "command = none must be given: choose one of those above"
    commands = sorted(getattr(getattr(error, "cmd", None), "commands", {}))
    if "No such command" in message and commands:
        name = re.findall(r"'([^']*)'", message)[0]
        near = get_close_matches(name, commands, 1)
        meant = f"did you mean {near[0]}?" if near else remedy
        return f"command = {name} must be one of {', '.join(commands)}: {meant}"
    if extra := re.search(r"extra arguments?(?:\(s\))? \((.*)\)", message):
        return f"argument = {extra[1]} must be left out: {remedy}"
    return f"command line = {' '.join(words)} must be understood: {message.rstrip('.').lower()}; {remedy}"


def _command(error: Any, words: Sequence[str]) -> str:
    """The words that lead to the help that helps."""
    if hasattr(getattr(error, "cmd", None), "commands"):
        return "grahame"
    return f"grahame {words[0]}" if words and not words[0].startswith("-") else "grahame"


def _label(param: Any) -> str:
    """An option by its long name, an argument by its own."""
    return str(next((o for o in param.opts if o.startswith("--")), param.name))


def _rule(message: str) -> str:
    """What a value must be, from typer's sentence about what is wrong with it."""
    if choices := re.search(r"is not one of (.*?)\.?$", message):
        return "one of " + choices[1].replace("'", "")
    if kind := re.search(r"Input should be (.*?)(, unable to|$)|is not (a valid .*?)\.?$", message):
        return kind[1] or kind[3]
    return f"acceptable ({message})"


def _given(param: Any, words: Sequence[str]) -> str:
    """What stands behind an option."""
    count = max(1, int(getattr(param, "nargs", 1) or 1))
    for k, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in param.opts:
            return value if equals else " ".join(words[k + 1 : k + 1 + count])
    return "what was given"
