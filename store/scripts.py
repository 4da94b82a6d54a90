"""Lua scripts, known by their content: EVALSHA first, the whole text when the server does not have it yet."""

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import NoScriptError

Argument = str | bytes | int


class Script:
    """One `.lua` file of this room; its head names KEYS, ARGV and what it returns.

    `preludes` are other files that go before it: Lua in Redis has no other way to share a function.
    """

    def __init__(self, name: str, *preludes: str) -> None:
        files = resources.files("batchmill.store")
        parts = [files.joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in (*preludes, name)]
        self.text = "".join(parts)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, redis: Redis, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run it in one round trip (two, once, after the server forgot it)."""
        try:
            return await redis.execute_command("EVALSHA", self.sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return await redis.execute_command("EVAL", self.text, len(keys), *keys, *arguments)

    def queue(self, pipe: Pipeline, keys: Sequence[str], arguments: Sequence[Argument]) -> None:
        """Add a call to a pipeline; the caller answers a NoScriptError by calling it."""
        pipe.execute_command("EVALSHA", self.sha, len(keys), *keys, *arguments)
