"""Spend over HTTP: what was spent, what it will come to, and what could be saved. A project sees its own."""

from decimal import Decimal
from typing import Literal

from batchmill.openrouter.list_prices import ListPrice
from batchmill.openrouter.money import to_usd
from batchmill.producer import reports
from batchmill.producer.reports import Savings, SpendReport
from batchmill.service import problems
from batchmill.service.context import Service
from batchmill.service.control.common import MS, seconds, usd
from batchmill.service.control.money import (
    Advice,
    BudgetForecast,
    CachingAdvice,
    Forecast,
    LeftOut,
    Paced,
    PeriodOutlook,
    Queued,
    Recommendations,
    SavingOption,
    Spend,
    SpendDay,
    SpendRow,
)
from batchmill.service.control.shapes import Prices, Shape
from batchmill.service.identity import Identity
from batchmill.spend import forecast as foreseen
from batchmill.spend import recommendations as found_savings
from batchmill.spend.outlooks import BudgetOutlook, Verdict
from batchmill.spend.pace import WEEK, Span
from batchmill.spend.queue import Evidence, QueueCost
from batchmill.spend.reports import By, Report, Row
from batchmill.spend.words import method
