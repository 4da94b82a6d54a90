"""A config file to begin with: every setting with its default and a sentence on it; the policy's tables as comments.

What depends on the machine (`data_dir`, `redis_url`) is a comment, too, so that the file says what is so without it.
"""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec

from batchmill.config import descriptions
from batchmill.config.alerting import Alerts
from batchmill.config.policy import Breaker, Routing
from batchmill.config.policy_tables import KINDS
from batchmill.config.schema import sections

_HEAD: Final = """\
# batchmill's settings: https://github.com/batchmill/batchmill/blob/main/docs/configuration.md
# Every key has the default that it has without this file; the environment wins over it. `batchmill config show
# --sources` tells which value counts and where it comes from. The API key has no place here.
"""
_TOP: Final = {"redis_url": "redis://localhost:6379/0", "data_dir": "~/.local/share/batchmill"}
_POLICY: Final = """\
# Below are the tables of the policy: limits, budgets and the like, for the whole fleet. As soon as one of them is here,
# this file's policy is in force; without any, the one that is stays. Settings begin with #, words with # and a blank.
"""
_EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "limits": {"match": ["anthropic/*"], "requests_per_minute": 600},
    "budgets": {"name": "daily", "limit_usd": Decimal("5.00"), "window": "day"},
    "prices": {"match": "local/*", "prompt": Decimal("0.10"), "completion": Decimal("0.40")},
    "projects": {"name": "evals", "weight": 3.0},
    "aliases": {"name": "fast", "models": ["openai/gpt-4o-mini", "google/gemini-2.0-flash-001"]},
    "webhooks": {"url": "https://example.com/hooks/batchmill", "secret_env": "BATCHMILL_WEBHOOK_SECRET"},
}
_SINGLE: Final[dict[str, type[msgspec.Struct]]] = {"breaker": Breaker, "routing": Routing, "alerts": Alerts}


def commented_defaults() -> str:
    """Return the file: TOML that `settings.load` reads as the defaults."""
    parts = [_HEAD, _top()]
    parts += [_table(f"[{name}]", name, _fields(kind())) for name, kind in sections().items()]
    parts.append(_POLICY)
    for name in KINDS:
        header = f"[[{name}]]" if name in _EXAMPLES else f"[{name}]"
        fields = _EXAMPLES.get(name) or _fields(_SINGLE[name]())
        parts.append(_as_comment(_table(header, name, fields)))
    return "\n".join(parts)


def _top() -> str:
    return "\n".join(f"# {descriptions.KEYS[key]}\n# {key} = {toml_of(value)}" for key, value in _TOP.items()) + "\n"


def _fields(values: msgspec.Struct) -> dict[str, Any]:
    """Return the fields that have a value to be written; TOML has no word for none."""
    fields = {name: getattr(values, name) for name in values.__struct_fields__}
    return {name: value for name, value in fields.items() if value is not None}


def _table(header: str, name: str, fields: dict[str, Any]) -> str:
    lines = [f"# {descriptions.TABLES[name]}", header]
    for key, value in fields.items():
        lines += [f"# {descriptions.KEYS[f'{name}.{key}']}", f"{key} = {toml_of(value)}"]
    return "\n".join(lines) + "\n"


def _as_comment(table: str) -> str:
    return "".join(line if line.startswith("#") else f"#{line}" for line in table.splitlines(keepends=True))


def toml_of(value: Any) -> str:
    """Return a value as TOML writes it."""
    match value:
        case bool():
            return str(value).lower()
        case str() | Path():
            return json.dumps(str(value), ensure_ascii=False)
        case tuple() | list():
            return f"[{', '.join(toml_of(each) for each in value)}]"
        case _:
            return str(value)
