"""Whose turn it is: the lines of one lane in one process, shared out between projects, then between their batches.

Start-time fair queueing on two levels (Goyal, Vin and Cheng, 1996): every member has a tag in virtual time, the least
tag goes, and a line moves the tag on by 1 / weight. Who comes, or comes back, starts at the virtual time of now, so
that being away earns nothing: a newcomer is soon served, and takes no more than its share from then on.
"""

import itertools
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush, heapreplace
from typing import Generic, TypeVar

from batchmill.workers.line import LineRun, ShardRun

_tickets = itertools.count(1)


class _Member(ABC):
    """Somebody who takes turns: a batch in its project, a project in the lane."""

    __slots__ = ("name", "stride", "tag", "ticket")

    def __init__(self, name: str, stride: float) -> None:
        self.name = name
        self.stride = stride  # how far a line moves the tag on
        self.tag = 0.0
        self.ticket = 0  # of the one entry of the heap that counts; 0 for none

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether a line may go."""

    @property
    @abstractmethod
    def empty(self) -> bool:
        """Whether there is nothing left to wait for."""


_Any = TypeVar("_Any", bound=_Member)


class _Round(Generic[_Any]):
    """Members in the order of their tags. Who is empty is remembered until its tag comes up, lest it begins anew."""

    __slots__ = ("_heap", "clock", "members")

    def __init__(self) -> None:
        self.members: dict[str, _Any] = {}
        self.clock = 0.0  # virtual time: the tag of who was served last
        self._heap: list[tuple[float, int, _Any]] = []

    def enter(self, member: _Any) -> None:
        """Let a member take part that has something to send, again."""
        if not member.ticket:
            member.tag = max(member.tag, self.clock)
            self._queue(member, next(_tickets))

    def first(self) -> _Any | None:
        """Return whose turn it is."""
        while self._heap:
            _, ticket, member = self._heap[0]
            if ticket == member.ticket:
                if member.ready:
                    return member
                member.ticket = 0
                if member.empty:
                    del self.members[member.name]
            heappop(self._heap)
        return None

    def served(self, member: _Any) -> None:
        """Note that the first one had its turn."""
        self.clock = member.tag
        member.tag += member.stride
        member.ticket = next(_tickets)
        heapreplace(self._heap, (member.tag, member.ticket, member))

    def undo(self, member: _Any, tag: float | None) -> None:
        """Give a turn back that was not used; `tag` is what the member had, if it has left and come again since."""
        member.tag = max(0.0, member.tag - member.stride) if tag is None else tag
        self.clock = min(self.clock, member.tag)
        self._queue(member, -next(_tickets))  # before its equals

    def in_order(self) -> list[_Any]:
        """Return all who may go, whose turn it is first."""
        return sorted((one for one in self.members.values() if one.ready), key=lambda one: (one.tag, one.ticket))

    def _queue(self, member: _Any, ticket: int) -> None:
        member.ticket = ticket
        heappush(self._heap, (member.tag, ticket, member))


class _Flow(_Member):
    """The lines of one batch that wait."""

    __slots__ = ("blocked", "lines")

    def __init__(self, name: str, stride: float, *, blocked: bool) -> None:
        super().__init__(name, stride)
        self.lines: deque[LineRun] = deque()
        self.blocked = blocked

    @property
    def ready(self) -> bool:
        return bool(self.lines) and not self.blocked

    @property
    def empty(self) -> bool:
        return not self.lines


class _Project(_Member):
    """The batches of one project."""

    __slots__ = ("flows",)

    def __init__(self, name: str, stride: float) -> None:
        super().__init__(name, stride)
        self.flows: _Round[_Flow] = _Round()

    @property
    def ready(self) -> bool:
        return self.flows.first() is not None

    @property
    def empty(self) -> bool:
        return not self.flows.members


class Turns:
    """The lines of one lane that wait for a place. `clock` is what times of `block` are told by."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._projects: _Round[_Project] = _Round()
        self._blocked: dict[str, float] = {}
        self._ends: list[tuple[float, str]] = []  # when blocks end, the earliest first
        self._count = 0

    def __len__(self) -> int:
        """Return how many lines are here, those of blocked batches too."""
        return self._count

    def batches(self, least: int = 1) -> set[str]:
        """Return the batches that have so many lines here, at least."""
        return {flow.name for flow in self._flows() if len(flow.lines) >= least}

    def left(self, run: LineRun) -> int:
        """Return how many lines of a line's batch are here."""
        project = self._projects.members.get(run.shard.terms.project)
        flow = project.flows.members.get(run.shard.claim.batch_id) if project else None
        return len(flow.lines) if flow else 0

    def add(self, shard: ShardRun) -> None:
        """Take in a shard's open lines, behind those of its batch that are here."""
        if shard.open_lines:
            self._come(shard).lines.extend(shard.open_lines.values())
            self._count += len(shard.open_lines)

    def heads(self) -> list[LineRun]:
        """Return the first line of each batch that may go, in the order of turns."""
        self._end_blocks()
        return [flow.lines[0] for project in self._projects.in_order() for flow in project.flows.in_order()]

    def pop(self) -> LineRun | None:
        """Take out the line whose turn it is; None when no line may go."""
        self._end_blocks()
        project = self._projects.first()
        flow = project.flows.first() if project else None
        if project is None or flow is None:
            return None
        run = flow.lines.popleft()
        run.turn = (project.tag, flow.tag)
        project.flows.served(flow)
        self._projects.served(project)
        self._count -= 1
        return run

    def push_back(self, run: LineRun, *, was_sent: bool = False) -> None:
        """Put a line first of its batch again. Its turn is given back, unless it was used: the line was sent.

        Of several, push back the last one first.
        """
        name, batch_id = run.shard.terms.project, run.shard.claim.batch_id
        before = self._projects.members.get(name)
        flow_before = before.flows.members.get(batch_id) if before else None
        flow = self._come(run.shard)
        flow.lines.appendleft(run)
        self._count += 1
        if not was_sent:
            project = self._projects.members[name]
            self._projects.undo(project, None if project is before else run.turn[0])
            project.flows.undo(flow, None if flow is flow_before else run.turn[1])

    def withdraw(self, shard: ShardRun) -> list[LineRun]:
        """Take out all lines of a shard."""
        project = self._projects.members.get(shard.terms.project)
        flow = project.flows.members.get(shard.claim.batch_id) if project else None
        withdrawn = [run for run in flow.lines if run.shard is shard] if flow else []
        if flow and withdrawn:
            flow.lines = deque(run for run in flow.lines if run.shard is not shard)
            self._count -= len(withdrawn)
        return withdrawn

    def block(self, batch_id: str, until: float) -> None:
        """Let no line of a batch go before a time of the clock, also of lines that come; a time gone by ends that."""
        self._blocked[batch_id] = until
        heappush(self._ends, (until, batch_id))
        for flow in self._flows():
            if flow.name == batch_id:
                flow.blocked = True
        self._end_blocks()

    def _come(self, shard: ShardRun) -> _Flow:
        """Return the flow of a shard's batch, which takes part from now on."""
        self._end_blocks()
        name, batch_id, stride = shard.terms.project, shard.claim.batch_id, 1 / shard.weight
        project = self._projects.members.setdefault(name, _Project(name, stride))
        project.stride = stride  # weights may change while lines wait
        flow = project.flows.members.get(batch_id)
        if flow is None:
            blocked = batch_id in self._blocked
            flow = _Flow(batch_id, shard.terms.priority.stride, blocked=blocked)
            project.flows.members[batch_id] = flow
        project.flows.enter(flow)
        self._projects.enter(project)
        return flow

    def _end_blocks(self) -> None:
        while self._ends and self._ends[0][0] <= self._clock():
            until, batch_id = heappop(self._ends)
            if self._blocked.get(batch_id) != until:
                continue  # blocked anew since
            del self._blocked[batch_id]
            for project in self._projects.members.values():
                if batch_id in project.flows.members:
                    flow = project.flows.members[batch_id]
                    flow.blocked = False
                    project.flows.enter(flow)
                    self._projects.enter(project)

    def _flows(self) -> list[_Flow]:
        return [flow for project in self._projects.members.values() for flow in project.flows.members.values()]
