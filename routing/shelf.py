"""The catalogue laid out for choosing: each model with all that follows from its entry, worked out once."""

import difflib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

import msgspec

from batchmill.openrouter.capabilities import capabilities
from batchmill.openrouter.list_prices import ListPrice, list_price
from batchmill.openrouter.models import ModelFacts, find_model
from batchmill.openrouter.traits import author_name, author_of, family_of, tags_of
from batchmill.openrouter.variants import base_of, variant_of

_NEAR: Final = 3
_LIKE: Final = 0.5


class Item(msgspec.Struct, frozen=True, eq=False):
    """One model and what follows from its entry; `text` is what a search looks at, `blended` USD a million tokens."""

    facts: ModelFacts
    price: ListPrice
    blended: Decimal | None
    capabilities: frozenset[str]
    tags: frozenset[str]
    author: str
    author_name: str
    family: str
    base: str
    variant: str | None
    text: str

    @property
    def id(self) -> str:
        """The model's id."""
        return self.facts.id


class Shelf:
    """All models of a catalogue. Made in some milliseconds for 500; then `select` and `recommend` take a few."""

    def __init__(self, models: Mapping[str, ModelFacts]) -> None:
        self.models = dict(models)
        self.items = tuple(item_of(facts) for facts in self.models.values())
        self._by_id = {item.id: item for item in self.items}

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def find(self, model_id: str) -> Item | None:
        """Return a model, also under an id with a routing suffix such as `:floor`."""
        facts = find_model(self.models, model_id)
        return None if facts is None else self._by_id[facts.id]

    def nearest(self, wrong: str) -> tuple[str, ...]:
        """Return the few ids that somebody who wrote this may have meant, the most like it first."""
        word = wrong.lower()
        within = sorted((model for model in self._by_id if word in model.lower()), key=len)
        alike = difflib.get_close_matches(word, self._by_id, n=_NEAR, cutoff=_LIKE)
        return tuple(dict.fromkeys([*alike[:1], *within, *alike]))[:_NEAR]


def item_of(facts: ModelFacts) -> Item:
    """Work out what follows from one entry."""
    price = list_price(facts.pricing)
    return Item(
        facts=facts,
        price=price,
        blended=price.blended,
        capabilities=capabilities(facts),
        tags=tags_of(facts),
        author=author_of(facts.id),
        author_name=author_name(facts),
        family=family_of(facts),
        base=base_of(facts.id),
        variant=variant_of(facts.id),
        text=f"{facts.id}\n{facts.name}\n{facts.description}".lower(),
    )
