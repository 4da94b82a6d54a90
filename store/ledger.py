"""The ledger in Redis. Its words are `spend/ledger.py`'s, so that what reckons with them knows no Redis."""

from batchmill.spend.ledger import Rollup, Source, UsageRecord

__all__ = ["Rollup", "Source", "UsageRecord"]
