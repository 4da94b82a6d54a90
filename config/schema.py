"""The whole TOML file as a JSON Schema (draft 2020-12), so that editors complete and check it; and the keys there are.

What spans several keys (a lease and its heartbeats, two rules of one name) is only checked by `settings.load`.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from batchmill.config import descriptions
from batchmill.config.policy_tables import KINDS
from batchmill.config.settings import Settings
from batchmill.config.windows import WindowKind

_NOT_IN_A_FILE: Final = ("policy", "api_key", "key_source", "simulate", "config_file")
_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_SINGLE: Final = ("breaker", "routing", "alerts")
_URLS: Final = {
    "upstream.base_url": "^https?://",
    "redis_url": "^(redis|rediss|unix)://",
    "webhooks.url": "^https?://",
}
_WORDS: Final = {
    "log.level": ["debug", "info", "warning", "error"],
    "log.format": ["auto", "console", "json"],
    "budgets.window": [kind.value for kind in WindowKind],
}


def sections() -> dict[str, type[msgspec.Struct]]:
    """Return the tables of settings, by name, in the order of the file."""
    kinds = {field.name: field.type for field in msgspec.structs.fields(Settings) if field.name not in _NOT_IN_A_FILE}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)}


def tables() -> dict[str, type[msgspec.Struct]]:
    """Return every table of the file: those of settings, then those of the policy."""
    return {**sections(), **KINDS}


def every_key() -> Iterator[str]:
    """Yield every key of the file: `data_dir`, `worker.lease`, `limits.match` ..."""
    for field in msgspec.structs.fields(Settings):
        if field.name not in (*_NOT_IN_A_FILE, *sections()):
            yield field.name
    for name, kind in tables().items():
        yield from (f"{name}.{field}" for field in kind.__struct_fields__)


def schema() -> dict[str, Any]:
    """Return the schema, made of the types that read the file."""
    properties: dict[str, Any] = {
        "redis_url": {"type": "string"},
        "data_dir": {"type": "string", "default": str(Settings().data_dir)},
    }
    every = tables()
    _, parts = msgspec.json.schema_components(every.values(), ref_template="#/$defs/{name}")
    for name, kind in every.items():
        reference = {"$ref": f"#/$defs/{kind.__name__}"}
        single = name in _SINGLE or name not in KINDS
        properties[name] = reference if single else {"type": "array", "items": reference}
        properties[name]["description"] = descriptions.TABLES[name]
        part = parts[kind.__name__]
        for key, described in part["properties"].items():
            _complete(described, f"{name}.{key}")
        part.pop("description", None)  # the docstring speaks to programmers
    for key in ("redis_url", "data_dir"):
        _complete(properties[key], key)
    return {
        "$schema": _DRAFT,
        "title": "batchmill's config file",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "$defs": {name: _in_toml(part) for name, part in parts.items()},
    }


def _complete(described: dict[str, Any], key: str) -> None:
    described["description"] = descriptions.KEYS[key]
    if key in _URLS:
        described["pattern"] = _URLS[key]
    if key in _WORDS:
        described["enum"] = _WORDS[key]


def _in_toml(part: Any) -> Any:
    """Return a part as TOML has it: numbers for decimals, and no null, for which a key is just not there."""
    if isinstance(part, list):
        return [_in_toml(each) for each in part]
    if not isinstance(part, dict):
        return part
    options = [option for option in part.get("anyOf", ()) if option != {"type": "null"}]
    kept = {name: value for name, value in part.items() if name != "anyOf" and (name, value) != ("default", None)}
    if len(options) == 1:
        kept = options[0] | kept
    elif options:
        kept["anyOf"] = options
    if kept.get("format") == "decimal":
        kept = {**kept, "type": "number"}
        del kept["format"]
    return {name: value if name == "description" else _in_toml(value) for name, value in kept.items()}
