"""Options and their mistakes: which options there are, and what a refusal of jsonargparse means in
the user's words.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, auto_cli

from gan3d.cli.messages import CommandError, nearest

COMMAND_LINE = "command line"


class Refusal(Exception):
    """What a parser refuses, in its own words, and which parser."""

    def __init__(self, message: str, parser: ArgumentParser):
        super().__init__(message)
        self.parser = parser


class Refusing:
    """Mixin of a parser: raises Refusal in place of printing a page of usage."""

    exit_on_error: bool

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # an attempt of jsonargparse's own, which it catches
            super().error(message, ex)  # type: ignore[misc]
        raise Refusal(message, self) from ex  # type: ignore[arg-type]


class FunctionParser(Refusing, ArgumentParser):
    """Parser of a function's arguments."""


def call(function: Callable, arguments: list[str], *, prog: str, positional: bool) -> Any:
    """Calls a function with arguments from the command line."""
    arguments = with_values(arguments)
    try:
        return auto_cli(
            function,
            args=arguments,
            as_positional=positional,
            prog=prog,
            parser_class=FunctionParser,
            allow_abbrev=False,
        )
    except Refusal as refusal:
        raise explain(str(refusal), refusal.parser, arguments, [], prog) from refusal


def with_values(arguments: list[str]) -> list[str]:
    """Arguments with every value that begins with a minus sign joined to its option, as
    `--yaw -0.5,0,0.5` would else be read as two options.

    Example:
        >>> with_values(["--yaw", "-0.5,0", "--num", "2"])
        ['--yaw=-0.5,0', '--num', '2']
    """
    joined: list[str] = []
    for word in arguments:
        option = joined[-1] if joined else ""
        if re.match(r"-[\d.]", word) and option.startswith("--") and "=" not in option:
            joined[-1] = f"{option}={word}"
        else:
            joined.append(word)
    return joined


@dataclass(frozen=True)
class Setting:
    """One value that the user gave: dotted name without `init_args` and `class_path`, and where it
    stands.
    """

    name: str
    value: Any
    source: str

    @property
    def where(self) -> str:
        """The source, if it is a file."""
        return "" if self.source in ("", COMMAND_LINE) else f" ({self.source})"


def settings(arguments: list[str], configs: list[Path]) -> list[Setting]:
    """All that the user set, in the order of precedence."""
    found = []
    for path in configs:
        try:
            content = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, OSError):
            continue
        found += [Setting(_plain(name), value, path.name) for name, value in flat(content)]
    for k, word in enumerate(arguments):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            following = arguments[k + 1] if k + 1 < len(arguments) else None
            found.append(Setting(_plain(name), value if equals else following, COMMAND_LINE))
    return found


def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested dictionaries under dotted names."""
    if isinstance(tree, dict) and tree:
        for name, value in tree.items():
            yield from flat(value, f"{prefix}.{name}" if prefix else str(name))
    elif prefix:
        yield prefix, tree


def _plain(name: str) -> str:
    return re.sub(r"\.(init_args|class_path)(?=\.|$)", "", name)


def _options(parser: ArgumentParser) -> Iterator[tuple[str, Any]]:
    """(name, type) of every option that takes a value; groups of options and help pages are
    none.
    """
    names = [action.dest for action in parser._actions]
    for action in parser._actions:
        name, hint = action.dest, getattr(action, "_typehint", None)
        group = hint is None and any(other.startswith(f"{name}.") for other in names)
        if action.option_strings and not group and not name.endswith(("help", "print_config")):
            yield name, hint or action.type


def surface(parser: ArgumentParser) -> dict[str, str]:
    """Every option of a parser with its type, as text: what the command line promises."""
    return {name: type_text(hint) for name, hint in _options(parser)}


def type_text(hint: Any) -> str:
    """A type as a person writes it: `int | None`, `one of a, b`."""
    if hint is None:
        return ""
    if hint in (Any, NoneType):
        return "any" if hint is Any else "None"
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        # Sorted, as `typing` keeps the order of whichever equal union was made first.
        kinds = {type_text(kind) for kind in inner}
        return " | ".join(sorted(kinds, key=lambda kind: (kind == "None", kind)))
    if "Literal" in str(origin):
        return f"one of {', '.join(str(value) for value in inner)}"
    if origin is not None and inner:
        name = getattr(origin, "__name__", str(origin))
        return (
            f"{name}[{', '.join('...' if kind is Ellipsis else type_text(kind) for kind in inner)}]"
        )
    return getattr(hint, "__name__", str(hint))


def _beside_literals(hint: Any) -> list[str]:
    """The types of a union that are no words of its own, but for None."""
    if get_origin(hint) not in (Union, UnionType):
        return []
    kinds = [kind for kind in get_args(hint) if "Literal" not in str(get_origin(kind))]
    return sorted(type_text(kind) for kind in kinds if kind is not NoneType)


def _classes(hint: Any) -> dict[str, type]:
    """Concrete classes that fit a type, by name."""
    found: dict[str, type] = {}
    queue = [
        kind
        for kind in ([hint] if isinstance(hint, type) else get_args(hint))
        if isinstance(kind, type)
    ]
    while queue:
        kind = queue.pop()
        if kind.__module__ == "builtins":
            continue
        if not inspect.isabstract(kind):
            found[kind.__name__] = kind
        queue += kind.__subclasses__()
    return found


def known_options(parser: ArgumentParser, given: list[Setting]) -> list[str]:
    """Names of all options that take a value, those of the chosen classes included."""
    names = []
    for name, hint in _options(parser):
        names.append(name)
        kinds = _classes(hint)
        chosen = [
            s.value.rpartition(".")[2] for s in given if s.name == name and isinstance(s.value, str)
        ]
        kind = (
            kinds.get(chosen[-1])
            if chosen
            else (*kinds.values(), None)[0]
            if len(kinds) == 1
            else None
        )
        names += [f"{name}.{parameter}" for parameter in _parameters(kind)]
    return names


def _parameters(kind: type | None) -> list[str]:
    """Arguments of a class; a dataclass among them gives the names of its fields."""
    try:
        parameters = inspect.signature(kind).parameters if kind is not None else {}
    except ValueError:  # some classes of C have none
        return []
    names = []
    for name, parameter in parameters.items():
        group = parameter.default
        is_group = is_dataclass(group) and not isinstance(group, type)
        names += [f"{name}.{field.name}" for field in fields(group)] if is_group else [name]
    return names


def explain(
    refusal: str, parser: ArgumentParser, arguments: list[str], configs: list[Path], command: str
) -> CommandError:
    """What a refusal of jsonargparse means: the full name, the nearest right one, in a few
    lines.
    """
    given, trains = settings(arguments, configs), command.startswith("lightning")
    page = f"all options: {command} --help{' all' if trains else ''}"
    # From the outermost to the innermost; some are said twice.
    keys = list(dict.fromkeys(re.findall(r'Parser key "(.+?)":', refusal)))
    known = known_options(parser, given)
    if found := re.search(
        r"unrecognized arguments: -*([^\s=]+)|[Oo]ption '(.+?)' is not accepted|option '(.+?)'$",
        refusal,
    ):
        group = re.search(r"Group '(.+?)' does not accept", refusal)
        keys += [group[1]] if group else []
        key = next(filter(None, found.groups()))
        return _unknown_option(".".join([*keys, key]), given, known, command, page)
    if keys and "Unable to load config" in refusal:
        return _whole_group(_locate(".".join(keys), given), known)
    if keys:
        return _wrong_value(_locate(".".join(keys), given), refusal, parser)
    if found := re.match(r"(?:the following arguments are|.*is) required(?:: (.*))?", refusal):
        names = [f"--{name.strip().partition('.')[2]}" for name in (found[1] or "").split(",")]
        start = (
            "start from a config: --config NAME (gan3d configs lists them)"
            if trains and not configs
            else ""
        )
        missing = f"not given: {', '.join(names)}" if found[1] and "." in found[1] else refusal
        return CommandError(missing, start, page)
    if "parsing config" in refusal:
        return _broken_config(configs) or CommandError(" ".join(refusal.split()))
    return CommandError(*[line.strip() for line in refusal.splitlines() if line.strip()][:4])


def _broken_config(configs: list[Path]) -> CommandError | None:
    for path in configs:
        try:
            yaml.safe_load(path.read_text())
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 0
            return CommandError(f"{path}, line {line}: this is not YAML: {error.problem}")
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            return CommandError(f"{path} is not YAML: {error}")
    return None


def _locate(key: str, given: list[Setting]) -> Setting:
    """Full name and source of a key that may have lost its first parts."""
    key = _plain(key.lstrip("-").partition("=")[0])
    matching = [
        s
        for s in given
        if s.name == key or s.name.endswith(f".{key}") or s.name.startswith(f"{key}.")
    ]
    exact = [s for s in matching if not s.name.startswith(f"{key}.")]
    return (exact or matching or [Setting(key, None, "")])[-1]


def _unknown_option(
    key: str, given: list[Setting], known: list[str], command: str, page: str
) -> CommandError:
    setting = _locate(key, given)
    if not setting.source:
        return CommandError(f"{key} is one word too many", page)
    owner = setting.name.rpartition(".")[0]
    kinds = [s.value for s in given if s.name == owner and isinstance(s.value, str)]
    if kinds:
        page = f"options of {kinds[-1]}: {command} --{owner}.help {kinds[-1]}"
    return CommandError(
        f"there is no option --{setting.name}{setting.where}", nearest(setting.name, known), page
    )


def _whole_group(setting: Setting, known: list[str]) -> CommandError:
    inner = [name for name in known if name.startswith(f"{setting.name}.")]
    return CommandError(
        f"--{setting.name}: {setting.value!r} is not a group of options{setting.where}",
        f"set one by one: --{', --'.join(inner[:3])}{', ..' if len(inner) > 3 else ''}",
    )


def _wrong_value(setting: Setting, problem: str, parser: ArgumentParser) -> CommandError:
    name, source = setting.name, setting.where
    hint = dict(_options(parser)).get(name)
    if found := re.search(r"Expected a dot import path string: (\S*)", problem):
        known = sorted(_classes(hint))
        there_is = f"there is: {', '.join(known)}" if known else ""
        return CommandError(
            f"--{name}: there is no {found[1]}{source}",
            nearest(found[1], known, like="{}"),
            there_is,
        )
    if found := re.search(r"class_path '(\S+)':\s+the following .* required: (.+)", problem):
        lacking = ", ".join(f"--{name}.{key.strip()}" for key in found[2].split(","))
        kind = found[1].rpartition(".")[2]
        return CommandError(f"--{name} {kind} needs {lacking}{source}")
    if "is abstract" in problem:
        owner = name.rpartition(".")[0]
        kinds = sorted(_classes(dict(_options(parser)).get(owner)))
        return CommandError(f"--{name}: say first which class: --{owner} {'|'.join(kinds)}{source}")
    got = re.findall(r"(?:Got value|Given value): (.*)", problem)
    value = (
        re.sub(r"NestedArg\(key='.*', val=(.*)\)", r"\1", got[-1].strip()).strip("'") if got else ""
    )
    literals = [
        word.strip(" '\"")
        for group in re.findall(r"Literal\[(.*?)\]", problem)
        for word in group.split(",")
    ]
    if literals:
        choices = list(dict.fromkeys(literals))
        others = "".join(f"no {kind} and " for kind in _beside_literals(hint))
        refused = f"--{name}: {value} is {others}not one of {', '.join(choices)}{source}"
        return CommandError(refused, nearest(value, choices, like="{}"))
    kinds = [
        k
        for k in re.findall(r"Expected an? (.*?)(?:\. Got value|$)", problem, re.MULTILINE)
        if "None" not in k
    ]
    expected = type_text(hint) or (
        re.sub(r"<class '(?:.*\.)?(.+?)'>", r"\1", kinds[-1]) if kinds else ""
    )
    if value and expected:
        several = re.match(r"(?:tuple|list)\[", expected)
        return CommandError(
            f"--{name}: {value!r} is not of type {expected}{source}",
            f'several values, or one of them, are written as --{name} "[{value}]"'
            if several
            else "",
        )
    return CommandError(f"--{name}: {problem.strip().splitlines()[-1].strip()}{source}")


@contextmanager
def naming_options(config: dict[str, Any]) -> Iterator[None]:
    """Adds to a refusal that begins with an argument and its value ("lr is -0.1; ..") which option
    of the command line this is.

    Args:
        config: the whole config, as plain values.
    """
    try:
        yield
    except ValueError as error:
        found = re.match(r"(\w+)(?: is)? ([^\s;,:]+)", str(error))
        names = [
            _plain(name)
            for name, value in flat(config)
            if found and name.rpartition(".")[2] == found[1] and str(value) == found[2]
        ]
        if not names or any(f"--{name}" in str(error) for name in names):
            raise
        options = " or ".join(f"--{name}" for name in names)
        raise CommandError(str(error), f"this is {options}") from error
