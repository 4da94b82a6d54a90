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


def _gate(upstream: str) -> str:
    return f"{PREFIX}{{gate:{upstream_tag(upstream)}}}:"
