"""OpenRouter's official Python SDK, and a strict look at what it decoded.

Its top package is called `openrouter`, as a folder of this checkout is: it is imported while the checkout is not on
the path, as an untyped module, and by nothing but the contract test.
"""

import importlib
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from batchmill.openrouter.simulator import Simulator, SimulatorOptions

KEY = "sk-or-v1-test"
_CHECKOUT = Path(__file__).resolve().parent.parent


@cache
def sdk() -> Any:
    """The SDK's top module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [entry for entry in sys.path if Path(entry).resolve() != _CHECKOUT])
        return importlib.import_module("openrouter")


class Wire:
    """What went over the wire in the last call of the SDK."""

    sent = b""
    received = b""

    async def watch(self, response: httpx.Response) -> None:
        self.sent = response.request.content
        self.received = await response.aread()

    @property
    def json(self) -> Any:
        return json.loads(self.received)

    @property
    def events(self) -> list[Any]:
        lines = self.received.decode().split("\n\n")
        return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


class SdkDesk:
    """A simulator, the SDK that speaks to it, and what they said."""

    def __init__(self, simulator: Simulator, client: Any, wire: Wire) -> None:
        self.simulator = simulator
        self.client = client
        self.wire = wire


@asynccontextmanager
async def sdk_desk(key: str = KEY, **options: Any) -> AsyncIterator[SdkDesk]:
    """Open a simulator with these options, and the SDK without the retries that it does by default."""
    wire = Wire()
    utils = importlib.import_module(f"{sdk().__name__}.utils")
    never = utils.RetryConfig("none", utils.BackoffStrategy(1, 1, 1.0, 1), retry_connection_errors=False)
    async with (
        Simulator(SimulatorOptions(**options)) as simulator,
        httpx.AsyncClient(event_hooks={"response": [wire.watch]}, trust_env=False) as transport,
        sdk().OpenRouter(
            api_key=key, server_url=simulator.base_url, async_client=transport, retry_config=never
        ) as client,
    ):
        yield SdkDesk(simulator, client, wire)


class Differences(msgspec.Struct):
    """Where a decoded value and the JSON that it came from part, by path (`[]` for the entries of a list).

    `wrong`: another value or type than sent, or one for which the SDK had only its fallback for unknown values.
    `undeclared`: sent, though the SDK knows no such field. `absent`: declared, but not sent.
    """

    wrong: list[str] = []
    undeclared: set[str] = set()
    absent: set[str] = set()


def differences(decoded: Any, sent: Any) -> Differences:
    """Compare what the SDK decoded with what was sent, strictly."""
    found = Differences()
    for _ in _compare(decoded, sent, "", found):
        pass
    return found


def _compare(decoded: Any, sent: Any, at: str, found: Differences) -> Iterator[None]:
    fields = getattr(type(decoded), "model_fields", None)
    if fields and isinstance(sent, dict):
        yield from _compare_fields(decoded, fields, sent, at, found)
    elif isinstance(decoded, list) and isinstance(sent, list) and len(decoded) == len(sent):
        for one, other in zip(decoded, sent, strict=True):
            yield from _compare(one, other, f"{at}[]", found)
    elif isinstance(decoded, dict) and isinstance(sent, dict) and decoded.keys() == sent.keys():
        for name, each in decoded.items():
            yield from _compare(each, sent[name], f"{at}.*", found)
    elif type(decoded).__name__.startswith("Unrecognized"):
        found.wrong.append(f"{at}: {sent!r} is unknown to the SDK")
    elif not _same(decoded, sent):
        found.wrong.append(f"{at}: {sent!r} became {decoded!r}")


def _compare_fields(
    decoded: Any, fields: dict[str, Any], sent: dict[str, Any], at: str, found: Differences
) -> Iterator[None]:
    aliases = {name: field.alias or name for name, field in fields.items()}
    found.undeclared |= {f"{at}.{name}" for name in sent.keys() - set(aliases.values())}
    for name, alias in aliases.items():
        if alias not in sent:
            found.absent.add(f"{at}.{alias}")
        else:
            # not getattr: it would warn of the deprecated ones
            yield from _compare(decoded.__dict__[name], sent[alias], f"{at}.{alias}", found)


def _same(decoded: Any, sent: Any) -> bool:
    if isinstance(decoded, datetime):
        return isinstance(sent, str) and decoded == datetime.fromisoformat(sent)
    if isinstance(decoded, float):  # JSON has one kind of number, and the SDK calls money a float
        return isinstance(sent, int | float) and not isinstance(sent, bool) and decoded == sent
    return type(decoded) is type(sent) and bool(decoded == sent)
