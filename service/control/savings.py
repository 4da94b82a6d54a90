"""What could be saved, over HTTP: the calls of some days put on every listed price that fits them."""

from batchmill.openrouter.capabilities import check_capability
from batchmill.openrouter.errors import UpstreamRefusedError, UpstreamUnavailableError
from batchmill.openrouter.list_prices import ListPrice
from batchmill.openrouter.money import to_usd
from batchmill.producer.reports import savings_of
from batchmill.service import problems
from batchmill.service.context import Service
from batchmill.service.control.money import Advice, CachingAdvice, LeftOut, Recommendations, SavingOption
from batchmill.service.control.shapes import Prices
from batchmill.service.control.spend import period_asked, project_asked
from batchmill.service.identity import Identity
from batchmill.spend import recommendations as found_savings
from batchmill.spend.recommendations import Caching, Findings, Option, best_of
from batchmill.store.catalogue import snapshot_of

NOTHING = "nothing"
"""The word for lines that need nothing but text."""

_FRESH = 60.0  # seconds: a look reads every record of the period


async def recommendations(
    service: Service, identity: Identity, since: str = "30d", until: str | None = None, project: str | None = None,
    needs: str | None = None, limit: int = 3,
) -> Recommendations:  # fmt: skip
    """Return for each model that was used what others would have cost, the best `limit` of each kind.

    `needs`: the capabilities that the lines ask for, with commas between; "nothing" for plain text. Raises ApiError.
    """
    period = await period_asked(service, since, until)
    whose, wanted = project_asked(identity, project), _wanted(needs)

    async def look() -> Findings:
        try:
            models = (await snapshot_of(service.redis, service.settings)).models
        except (UpstreamUnavailableError, UpstreamRefusedError) as error:
            raise problems.unavailable("No list of models is known just now; try again.") from error
        return await savings_of(service.redis, service.settings, models, period, project=whose, needs=wanted)

    found = await service.moments.get(("savings", period.first, period.last, whose, wanted), look, _FRESH)
    return Recommendations(
        since=period.first.isoformat(),
        until=period.last.isoformat(),
        models=tuple(_advice(advice, limit) for advice in found.advice),
        left_out=LeftOut(requests=found.unusable.requests, paid_usd=to_usd(found.unusable.paid)),
    )


def price_shape(price: ListPrice | None) -> Prices | None:
    """Return list prices as they are told."""
    if price is None:
        return None
    return Prices(input=price.input, output=price.output, cache_read=price.cache_read, request=price.request)


def _wanted(needs: str | None) -> frozenset[str] | None:
    if needs is None:
        return None
    words = frozenset(word for word in needs.split(",") if word)
    if words == {NOTHING}:
        return frozenset()
    try:
        for word in words:
            check_capability(word)
    except ValueError as error:
        raise problems.invalid(f"Invalid value for 'needs': {error}", "needs", "invalid_value") from error
    return words


def _advice(advice: found_savings.Advice, limit: int) -> Advice:
    usage, total = advice.usage, advice.total
    return Advice(
        model=usage.model,
        requests=total.requests,
        prompt_tokens=total.prompt,
        cached_tokens=total.cached,
        completion_tokens=total.completion,
        reasoning_tokens=total.reasoning,
        first_at_ms=usage.first,
        last_at_ms=usage.last,
        context_used=usage.context,
        longest_answer=usage.answer,
        needs=tuple(sorted(advice.needs)),
        needs_source="told" if advice.told else "upper_bound",
        unknown=advice.unknown,
        paid_usd=to_usd(total.paid),
        price_today_usd=advice.today,
        reckoned_from_usd=advice.basis,
        prices=price_shape(advice.price),
        considered=advice.considered,
        fitting=advice.fitting,
        options=tuple(_option(option) for option in best_of(advice.options, limit)),
        caching=None if advice.caching is None else _caching(advice.caching),
    )


def _option(option: Option) -> SavingOption:
    return SavingOption(
        model=option.item.id,
        kind=option.kind.value,
        saving_usd=to_usd(option.saving),
        cost_usd=option.cost,
        requests=option.requests,
        prices=price_shape(option.item.price),
        caveats=option.caveats,
    )


def _caching(caching: Caching) -> CachingAdvice:
    return CachingAdvice(
        uncached_tokens=caching.uncached,
        saving_for_million_usd=caching.for_million,
        saving_at_most_usd=to_usd(caching.most),
    )
