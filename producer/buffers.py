"""Lines on their way into shards, by group: lines of one group go to the same lane on the same terms."""

from collections.abc import Mapping

import msgspec

from batchmill.producer.lines import Priced
from batchmill.producer.pricing import Pricer
from batchmill.store.model import Line
from batchmill.store.staging import Staging, shard_size

SHARD_BYTES = 1 << 20
_TOTAL_BYTES = 16 << 20  # over all groups, so that 400 models in one file fit in memory, too


class _Group(msgspec.Struct):
    """The lines of a group that wait for their shard, and how many it takes."""

    lane: str
    most: int
    lines: list[Line] = []
    size: int = 0  # bytes


class Buffers:
    """The lines that are not staged yet. `counts` says how many lines each model or alias is named by, in all."""

    def __init__(self, staging: Staging, pricer: Pricer, counts: Mapping[str, int]) -> None:
        self._staging = staging
        self._pricer = pricer
        self._counts = counts
        self._groups: dict[str, _Group] = {}
        self._total = 0

    async def add(self, line: Priced, index: int) -> None:
        """Take a line, and stage the shard that is full with it."""
        group = self._groups.get(line.group)
        if group is None:
            group = self._groups[line.group] = _Group(line.model, self._most(line))
        group.lines.append(Line(index, line.custom_id, line.body, line.bound, line.tokens, line.fares, line.live))
        group.size += len(line.body)
        self._total += len(line.body)
        if len(group.lines) >= group.most or group.size >= SHARD_BYTES:
            await self._stage(line.group)
        while self._total > _TOTAL_BYTES:
            await self._stage(max(self._groups, key=lambda name: self._groups[name].size))

    async def flush(self) -> None:
        """Stage what is left."""
        for name in list(self._groups):
            await self._stage(name)

    async def _stage(self, name: str) -> None:
        group = self._groups[name]
        if not group.lines:
            return
        lines, group.lines = group.lines, []
        self._total -= group.size
        group.size = 0
        await self._staging.add(group.lane, lines, self._pricer.terms(name))

    def _most(self, line: Priced) -> int:
        route = self._pricer.terms(line.group).route
        return shard_size(self._counts.get(line.model if route is None else route.asked, 1))
