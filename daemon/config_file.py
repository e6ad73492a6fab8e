"""config.yaml as text: where it is found, which line a key stands on, what is wrong with it in words."""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from anomalyd.errors import ConfigError

Key = tuple[str | int, ...]
"""Path to a value: names of sections and keys, positions in lists."""

PACKAGED = Path(__file__).resolve().parent / "config.yaml"
SYSTEM = Path("/etc/anomalyd/config.yaml")
LOCAL = Path("config.yaml")
_TLS_FILES = ("certificate", "key", "ca")
PATH_KEYS: tuple[Key, ...] = (
    ("storage", "root"),
    ("pipeline", "bundles"),
    *(("daemon", "tls", name) for name in _TLS_FILES),
    *(("daemon", "destinations", "*", "tls", name) for name in _TLS_FILES),
    *(("daemon", "accept_from", "*", "report_to", "tls", name) for name in _TLS_FILES),
)
"""Relative paths under these keys count from the folder of the file. *: each entry of a list."""
SECRET_KEYS = frozenset({"url"})
"""Values that are never shown: a database address may hold a password."""


@dataclass(frozen=True, slots=True)
class Document:
    """One configuration file: its values, and the line (from 1) of every key."""

    path: Path
    data: dict[str, Any]
    lines: dict[Key, int]


def default_path() -> Path:
    """./config.yaml, /etc/anomalyd/config.yaml or the packaged file, whichever is there first."""
    return next((path for path in (LOCAL, SYSTEM) if path.is_file()), PACKAGED)


def parse_value(text: str) -> Any:
    """What YAML makes of one value; raises ValueError."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise ValueError(f"not readable as YAML or JSON: {_problem(exc)}") from exc


def read(path: Path) -> Document:
    """The file's values with their lines; raises ConfigError with file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {getattr(exc, 'strerror', None) or 'not UTF-8 text'}") from exc
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: no valid YAML: {_problem(exc)}") from exc
    if data is None:
        return Document(path, {}, {})
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
        raise ConfigError(f"{path}: the sections daemon:, pipeline: and storage: are expected at the top")
    document = Document(path, data, dict(_lines(root, (), path)))
    _anchor_paths(document)
    return document


def _problem(exc: yaml.YAMLError) -> str:
    return str(getattr(exc, "problem", None) or exc).splitlines()[0]


def _lines(node: yaml.Node | None, at: Key, path: Path) -> Iterator[tuple[Key, int]]:
    """Every key with its line; a key that stands twice is an error, since YAML would drop the first."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for name, value in node.value:
            line = name.start_mark.line + 1
            if name.value in seen:
                raise ConfigError(f"{path}:{line}: {dotted((*at, name.value))}: stands twice in this section")
            seen.add(name.value)
            yield (*at, name.value), line
            yield from _lines(value, (*at, name.value), path)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            yield (*at, position), value.start_mark.line + 1
            yield from _lines(value, (*at, position), path)


def _anchor_paths(document: Document) -> None:
    """Make relative paths absolute in place, from the folder of the file; `~` is the home of the user."""
    base = document.path.resolve().parent
    for key in PATH_KEYS:
        document.data.update(_anchored(document.data, key, base))


def _anchored(value: Any, key: Key, base: Path) -> Any:
    """The value, with what stands under the key made absolute."""
    if not key:
        if isinstance(value, list):
            return [_anchored(item, key, base) for item in value]
        return str(base / Path(value).expanduser()) if isinstance(value, str) else value
    first, rest = key[0], key[1:]
    if first == "*" and isinstance(value, list):
        return [_anchored(item, rest, base) for item in value]
    if isinstance(value, dict) and first in value:
        return value | {first: _anchored(value[first], rest, base)}
    return value


def dotted(key: Key) -> str:
    """daemon.destinations[0].port."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")


def in_words(
    error: ValidationError, document: Document, model: type[BaseModel], env: Mapping[str, str], prefix: str
) -> ConfigError:
    """One line for each thing that is wrong: where it stands, the key, what is allowed, the nearest valid name."""
    texts = []
    for detail in error.errors(include_url=False, include_context=False):
        key = tuple(detail["loc"])
        texts.append(f"{_origin(key, document, env, prefix)}: {dotted(key) or 'file'}: {_fault(detail, key, model)}")
    return ConfigError("\n".join(texts))


def _origin(key: Key, document: Document, env: Mapping[str, str], prefix: str) -> str:
    variables = {name.upper() for name in env}
    for depth in range(len(key), 0, -1):
        variable = prefix + "__".join(str(part).upper() for part in key[:depth])
        if variable in variables:
            return f"environment variable {variable}"
        if key[:depth] in document.lines:
            return f"{document.path}:{document.lines[key[:depth]]}"
    return str(document.path)


def _fault(detail: ErrorDetails, key: Key, model: type[BaseModel]) -> str:
    if detail["type"] == "extra_forbidden":
        return f"unknown key{_suggestion(key, model)}"
    if detail["type"] == "missing":
        return "is missing"
    text = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if re.match(r"(a|an|one of) ", text):
        text = f"must be {text}"
    text = re.sub(r"a valid dictionary or instance of \w+", "a group of keys", text)
    value = detail["input"]
    is_secret = bool(SECRET_KEYS & set(map(str, key)))
    shown = isinstance(value, str | int | float | bool) and not is_secret and repr(value) not in text
    return f"{text} (is {value!r})" if shown else text


def _suggestion(key: Key, model: type[BaseModel]) -> str:
    """The nearest name in the same section; else the section in which a key of this very name stands."""
    wrong = str(key[-1])
    siblings = [name for name, _ in _keys_of(_model_at(model, key[:-1]), ())]
    near = difflib.get_close_matches(wrong, [str(name[-1]) for name in siblings if len(name) == 1], n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    elsewhere = [path for path, _ in _keys_of(model, ()) if path[-1] == wrong]
    if elsewhere:
        return f"; did you mean {dotted(elsewhere[0])}?"
    return "; known here: " + ", ".join(str(name[-1]) for name in siblings if len(name) == 1)


def _model_at(model: type[BaseModel], key: Key) -> type[BaseModel] | None:
    found: type[BaseModel] | None = model
    for part in key:
        if isinstance(part, str) and found is not None:
            field = found.model_fields.get(part)
            found = _model_in(field.annotation) if field else None
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _keys_of(model: type[BaseModel] | None, at: Key) -> Iterator[tuple[Key, type[BaseModel]]]:
    """Every key path below a section, with the model that it stands in."""
    if model is None:
        return
    for name, field in model.model_fields.items():
        yield (*at, name), model
        yield from _keys_of(_model_in(field.annotation), (*at, name))


def refuse_misspelt_environment(env: Mapping[str, str], model: type[BaseModel], prefix: str) -> None:
    """Raise ConfigError for a variable that looks like a setting and would be passed over in silence."""
    sections = [name.upper() for name in model.model_fields]
    for variable in env:
        section, separator, rest = variable.upper().removeprefix(prefix).partition("__")
        if not variable.upper().startswith(prefix) or section in sections:
            continue
        if separator and rest:
            raise ConfigError(f"environment variable {variable}: no section {section}{_near(section, sections)}")
        meant = next((name for name in sections if section.startswith(f"{name}_")), None)
        if meant:
            right = f"{prefix}{meant}__{section.removeprefix(f'{meant}_')}"
            raise ConfigError(f"environment variable {variable}: two underscores after the section: {right}")


def _near(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names)}"
