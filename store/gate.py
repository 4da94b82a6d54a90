"""The gate: one atomic call decides which lines may be sent now, over breaker, limits and budgets.

Nothing is sent without a hold, and a hold exists only once this call has said so. A call that got no answer is
repeated with the same number until it gets one: it then says the same again and holds nothing twice.
"""

from collections.abc import Sequence
from enum import StrEnum

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from batchmill.store import keys
from batchmill.store.rules import Rules
from batchmill.store.scripts import Argument, Script

_gate = Script("gate", "bucket")
NEVER = -1
"""As a wait in milliseconds: nobody knows how long."""


class Why(StrEnum):
    """What holds lines back."""

    NOTHING = ""
    ALARM = "alarm"  # the books were restored from an older snapshot
    POLICY = "policy"  # the caller's rules are old: read them anew
    WINDOW = "window"  # a budget's window has turned: make the rules anew
    PAUSE = "pause"
    BREAKER = "breaker"
    SHARE = "share"  # the model's adaptive share in the air
    LIMIT = "limit"
    BUDGET = "budget"


class Candidate(msgspec.Struct, frozen=True):
    """A line that asks to be sent: the hold it will have, its worst-case cost (nano-dollars) and tokens."""

    hold: str
    bound: int
    tokens: int


class Ask(msgspec.Struct, frozen=True):
    """Lines of one model that fall under the same rules."""

    rules: Rules
    candidates: tuple[Candidate, ...]


class Reply(msgspec.Struct, frozen=True):
    """What the gate said. Of the first `looked` candidates all are held but those at the places `skipped`.

    `why` says what ended it there; `which` is the place of the scope, limit or budget in the rules (from 1; of
    a breaker: 1 when an operator tripped it, else 0), `wait` in milliseconds or NEVER, `now` the clock of Redis in
    milliseconds.
    """

    looked: int
    why: Why
    which: int
    wait: int
    now: int
    skipped: tuple[int, ...] = ()

    def admitted(self, place: int) -> bool:
        """Whether the candidate at that place (from 0) is held."""
        return place < self.looked and place not in self.skipped


class Caller(msgspec.Struct, frozen=True):
    """Who asks: a worker, for how long its holds last without a heartbeat (seconds), and the epoch it has seen."""

    upstream: str
    owner: str
    lease: float
    epoch: int = 0


async def admit(redis: Redis, caller: Caller, call: int, asks: Sequence[Ask]) -> list[Reply]:
    """Ask for all in one round trip. `call` must grow; repeat a call that failed with the same number and asks."""
    calls = [_call(caller, call, place, ask) for place, ask in enumerate(asks)]
    if len(calls) == 1:
        return [_reply(await _gate(redis, *calls[0]))]
    async with redis.pipeline(transaction=False) as pipe:
        for one in calls:
            _gate.queue(pipe, *one)
        replies = await pipe.execute(raise_on_error=False)
    told = []
    for one, answer in zip(calls, replies, strict=True):
        reply = await _gate(redis, *one) if isinstance(answer, NoScriptError) else answer
        if isinstance(reply, Exception):
            raise reply
        told.append(_reply(reply))
    return told


def _call(caller: Caller, call: int, place: int, ask: Ask) -> tuple[list[str], list[Argument]]:
    upstream, rules = caller.upstream, ask.rules
    names = [
        keys.books(upstream),
        keys.holds(upstream, caller.owner),
        keys.owners(upstream),
        keys.model(upstream, rules.model),
        keys.pauses(upstream),
        *rules.keys,
    ]
    arguments: list[Argument] = [
        caller.owner,
        round(caller.lease * 1000),
        rules.version,
        caller.epoch,
        place,
        call,
        rules.number,
        *rules.gate_arguments,
    ]
    for candidate in ask.candidates:
        arguments += (candidate.hold, candidate.bound, candidate.tokens)
    return names, arguments


def _reply(reply: list[int | bytes]) -> Reply:
    looked, why, which, wait, now, *skipped = reply
    word = why.decode() if isinstance(why, bytes) else str(why)
    return Reply(int(looked), Why(word), int(which), int(wait), int(now), tuple(int(place) - 1 for place in skipped))
