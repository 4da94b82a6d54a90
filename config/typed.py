"""Commands of ours in messages, as they are typed."""

SIMULATOR = "simulator"
"""The upstream of what runs with `--simulate`."""


def rehearsing(upstream: str) -> str:
    """Return the option that a command takes to find what is meant for an upstream, with a blank before it."""
    return " --simulate" if upstream == SIMULATOR else ""


def typed(command: str, upstream: str) -> str:
    """Return a command between backticks; in a rehearsal with `--simulate`, without which it asks other books."""
    return f"`batchmill {command}{rehearsing(upstream)}`"
