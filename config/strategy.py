"""How lines that may go to several models find theirs."""

from enum import StrEnum


class Strategy(StrEnum):
    """How candidates are put in order."""

    ORDER = "order"  # as they are named: the first that can
    COST = "cost"
    PERFORMANCE = "performance"
    AVAILABILITY = "availability"
    ROUND_ROBIN = "round_robin"
    WEIGHTED = "weighted"
