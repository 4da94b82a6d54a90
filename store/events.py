"""The end of a batch, told to the webhook that it was created with: one event a batch, as OpenAI sends them.

It is queued in the step that makes the end visible: with the output files of a batch that ran (`outputs.py`), with the
failure of one whose lines can't run.
"""

from typing import Literal

import msgspec

from batchmill.store.model import BatchState, BatchStatus

Ended = Literal["completed", "failed", "expired", "cancelled"]

_ENDED: dict[BatchState, Ended] = {
    BatchState.COMPLETED: "completed",
    BatchState.EXPIRED: "expired",
    BatchState.CANCELLED: "cancelled",
}


class Event(msgspec.Struct, frozen=True):
    """How a batch ended, when (unix seconds), and whom to tell."""

    batch_id: str
    ended: Ended
    created_at: int
    url: str

    @property
    def id(self) -> str:
        """The event's id, which is the same however often it is sent."""
        return f"evt_{self.batch_id.removeprefix('batch_')}"

    def body(self) -> bytes:
        """Return it as OpenAI's clients read it."""
        return msgspec.json.encode(
            {
                "id": self.id,
                "object": "event",
                "type": f"batch.{self.ended}",
                "created_at": self.created_at,
                "data": {"id": self.batch_id},
            }
        )


def event_of(status: BatchStatus, now: int) -> Event | None:
    """Return the event of a batch that has ended, at a time (unix seconds); None when nobody asked to be told."""
    if status.handed is None or status.handed.webhook_url is None or not status.state.terminal:
        return None
    return Event(status.id, _ENDED[status.state], now, status.handed.webhook_url)


def message(event: Event | None) -> bytes:
    """Return the event as it is queued in `service_keys.event_deliveries`; nothing for none."""
    return b"" if event is None else msgspec.json.encode(event)


def read(member: str) -> Event:
    """Return a queued event. Raises msgspec.DecodeError for what another version wrote."""
    return msgspec.json.decode(member, type=Event)
