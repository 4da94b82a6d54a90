"""Keys of what is asked for over HTTP: one function each, with its type, its life and who writes it, as in `keys`."""

from batchmill.store.keys import PREFIX, upstream_tag


def intakes(upstream: str) -> str:
    """Sorted set: batch whose input is to be looked at -> when a gateway may take it (ms: the end of the lease of who
    has it). Gone when empty. Written by who creates batches over HTTP, and by the gateways that take them in.
    """
    return f"{PREFIX}intakes:{upstream_tag(upstream)}"


def intake(batch_id: str) -> str:
    """Hash: a batch over HTTP before it is one: its state, what was asked for, and why it failed. Retention; gone when
    its lines are let go. Written as `intakes`.
    """
    return f"{PREFIX}{{{batch_id}}}:intake"


def request_name(name: str) -> str:
    """String: digest of a body that created a batch, `|`, and the batch. Expires in ten minutes to a day. Written with
    the intake.
    """
    return f"{PREFIX}request:{name}"


EVERY_PROJECT = "*"


def index(project: str | None) -> str:
    """Sorted set: stands in for part life's until it is merged. Permanent."""
    return f"{PREFIX}batches:{EVERY_PROJECT if project is None else project}"
