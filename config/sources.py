"""Where each value comes from: a default, a line of the file, a variable, the command line, the keyring."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from batchmill.config.policy import Policy
from batchmill.config.schema import sections
from batchmill.config.settings import VARIABLES, Settings, config_path, load, variables
from batchmill.config.urls import masked

DEFAULT: Final = "default"
_HIDDEN: Final = "***"


class Traced(msgspec.Struct, frozen=True):
    """One value in force: its key (`worker.lease`, `limits[0].match`), itself without secrets, and where it is from.

    `source` is one of default, file, environment, command line, keyring; `where` names the line, variable or entry.
    """

    key: str
    value: Any
    source: str
    where: str | None = None

    @property
    def origin(self) -> str:
        """The source in words."""
        return f"{self.source}: {self.where}" if self.where else self.source


def trace(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    simulate: bool = False,
    redis_url: str | None = None,
) -> tuple[Settings, list[Traced]]:
    """Load the settings, and tell of each value where it came from. Raises ConfigError as `load` does."""
    settings = load(file, environ, simulate=simulate, redis_url=redis_url)
    env = variables(environ)
    places = _Places(config_path(file, env), env)
    traced = [
        Traced("config_file", _text(settings.config_file), *places.of_file(given=file is not None)),
        Traced("simulate", settings.simulate, "command line" if simulate else DEFAULT),
        Traced("api_key", _HIDDEN if settings.api_key else None, *(settings.key_source or (DEFAULT, None))),
        Traced("redis_url", shown(settings.redis_url), *(places.of("redis_url", given="--redis" if redis_url else ""))),
        Traced("data_dir", _text(settings.data_dir), *places.of_data_dir()),
    ]
    for name in sections():
        traced += places.of_fields(name, getattr(settings, name))
    traced += _policy(settings.policy or Policy(), places)
    return settings, traced


def shown(value: Any) -> Any:
    """Return a value as plain data, and of a URL only what can hold no password."""
    if isinstance(value, str):
        return masked(value)[1:-1] if "://" in value else str(value)
    if isinstance(value, tuple):
        return [shown(each) for each in value]
    return value


class _Places:
    """Which keys the file and the environment name."""

    def __init__(self, path: Path | None, env: Mapping[str, str]) -> None:
        self._path = path
        self._lines = lines_of(path.read_text(encoding="utf-8")) if path else {}
        self._env = env
        self._variables = {key: name for name, key in VARIABLES.items() if env.get(name)}

    def of(self, key: str, *, given: str = "") -> tuple[str, str | None]:
        """Return where a value is from; `given` is the option that it was given by."""
        if given:
            return "command line", given
        if key in self._variables:
            return "environment", self._variables[key]
        if key in self._lines:
            return "file", f"{self._path}:{self._lines[key]}"
        return DEFAULT, None

    def of_data_dir(self) -> tuple[str, str | None]:
        """The default follows a variable of the desktop."""
        source, where = self.of("data_dir")
        if source == DEFAULT and self._env.get("XDG_DATA_HOME"):
            return "environment", "XDG_DATA_HOME"
        return source, where

    def of_file(self, *, given: bool) -> tuple[str, str | None]:
        """Return where the name of the file itself is from."""
        if given:
            return "command line", "--config"
        return ("environment", "BATCHMILL_CONFIG") if self._path else (DEFAULT, None)

    def of_fields(self, prefix: str, values: msgspec.Struct) -> Iterator[Traced]:
        """Yield each field of a table."""
        for name in values.__struct_fields__:
            key = f"{prefix}.{name}"
            yield Traced(key, shown(getattr(values, name)), *self.of(key))


def _policy(policy: Policy, places: _Places) -> Iterator[Traced]:
    """Yield the policy as the file says it, with the limit that is there without being named."""
    for name in policy.__struct_fields__:
        rules = getattr(policy, name)
        if not isinstance(rules, tuple):
            yield from places.of_fields(name, rules)
            continue
        for index, rule in enumerate(rules):
            yield from places.of_fields(f"{name}[{index}]", rule)


def lines_of(text: str) -> dict[str, int]:
    """Return the line (from 1) of each key of a TOML file that can be read, by its path: `a.b`, `limits[0].match`."""
    found: dict[str, int] = {}
    counts: dict[str, int] = {}
    prefix, pending, began = "", "", 0
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not pending and (not stripped or stripped.startswith("#")):
            continue
        began = began if pending else number
        pending += line + "\n"
        try:
            table = tomllib.loads(pending)
        except tomllib.TOMLDecodeError:  # a value that goes on in the next line
            continue
        if pending.lstrip().startswith("["):
            prefix = _prefix(table, counts)
            found[prefix.removesuffix(".")] = began
        else:
            found.update({prefix + key: began for key in _paths(table)})
        pending = ""
    return found


def _prefix(table: dict[str, Any], counts: dict[str, int]) -> str:
    """Return what the header of a table puts before its keys; the header alone was read."""
    name = next(iter(table))
    inner = table[name]
    if isinstance(inner, list):
        index = counts[name] = counts.get(name, -1) + 1
        return f"{name}[{index}]."
    return f"{name}." + (_prefix(inner, counts) if inner else "")


def _paths(table: dict[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        yield key
        if isinstance(value, dict):
            yield from (f"{key}.{path}" for path in _paths(value))
        if isinstance(value, list):
            for index, entry in enumerate(value):
                if isinstance(entry, dict):
                    yield from (f"{key}[{index}].{path}" for path in _paths(entry))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
