"""Every key that the HTTP service keeps in Redis: one function each, with its type, its life and who writes it.

Those that touch money or who may spend it share the hash tag of the gate's books, as in `store/keys.py`.
"""

from batchmill.store.keys import PREFIX, upstream_tag


def api_keys(upstream: str) -> str:
    """Hash: id of an API key -> what it may do, and a hash of its secret (JSON). Permanent, and small: keys that do not
    count any more stay in it, so that nobody gets in without one. Written by operators.
    """
    return f"{_gate(upstream)}api_keys"


def api_key_use(upstream: str) -> str:
    """Hash: id of an API key -> when it was last used (unix seconds). Permanent, with `api_keys`. By gateways."""
    return f"{_gate(upstream)}api_key_use"


def api_key_rate(upstream: str, key_id: str) -> str:
    """Hash: the bucket of requests of one API key. Expires when it would be full. Written by gateways."""
    return f"{_gate(upstream)}api_key_rate:{key_id}"


def key_budgets(upstream: str) -> str:
    """Hash: name of the budget of an API key -> the budget (JSON). Permanent, with `api_keys`. By operators."""
    return f"{_gate(upstream)}key_budgets"


def session(digest: str) -> str:
    """Hash: a session of the dashboard, by the hash of its token: `key`, the API key. Expires twelve hours after its
    last use. Written by gateways.
    """
    return f"{PREFIX}session:{digest}"


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


def _gate(upstream: str) -> str:
    return f"{PREFIX}{{gate:{upstream_tag(upstream)}}}:"
