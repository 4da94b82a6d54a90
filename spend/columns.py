"""Usage records as columns, for files that other programs read: the names, and the values of one record."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from batchmill.openrouter.money import to_usd
from batchmill.spend.ledger import UsageRecord

_NANO_DIGITS = Decimal("0.000000001")
_COST = "cost"
COLUMNS = tuple("cost_usd" if name == _COST else name for name in UsageRecord.__struct_fields__)


def values_of(record: UsageRecord) -> dict[str, Any]:
    """Return a record's values by column: `at` in UTC, `cost_usd` exact with nine places, `tags` as a list."""
    values: dict[str, Any] = msgspec.structs.asdict(record)
    cost = to_usd(values.pop(_COST)).quantize(_NANO_DIGITS)
    values |= {"at": at_of(record), "cost_usd": cost, "source": record.source.value, "tags": list(record.tags)}
    return {name: values[name] for name in COLUMNS}


def at_of(record: UsageRecord) -> datetime:
    """Return when the call was settled, by the Redis clock."""
    seconds, milliseconds = divmod(record.at, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=milliseconds * 1000)
