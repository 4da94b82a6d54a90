"""The simulated upstream's state, and what becomes of one completion call: everything but the sending."""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal

import msgspec

from batchmill.openrouter.prices import Billable
from batchmill.openrouter.simulator import refusals
from batchmill.openrouter.simulator.account import check_limit
from batchmill.openrouter.simulator.answers import (
    NO_CHARGE,
    Answerer,
    Charge,
    Plan,
    charge,
    prompt_tokens,
)
from batchmill.openrouter.simulator.books import Books, Call, Generation
from batchmill.openrouter.simulator.caps import Caps
from batchmill.openrouter.simulator.catalogue import Endpoint, Model, load_catalogue
from batchmill.openrouter.simulator.draws import Draws
from batchmill.openrouter.simulator.faults import PROVIDERS_FAULTS, FaultKind, check_faults, choose_fault
from batchmill.openrouter.simulator.latency import Latencies
from batchmill.openrouter.simulator.options import SimulatorOptions
from batchmill.openrouter.simulator.preferences import choose_endpoint
from batchmill.openrouter.simulator.refusals import Refusal
from batchmill.openrouter.simulator.traffic import Traffic
from batchmill.openrouter.simulator.wire import CompletionRequest

INVALID_KEY = "sk-or-v1-invalid"

_NANO = 1_000_000_000
_MAX_MODELS = 3  # entries of `models`; more are a 400
_ID_LENGTH = 20
_FAULT, _LATENCY = range(2)  # slots of a call's draws
_IN_THE_200 = frozenset((FaultKind.IN_BAND, FaultKind.MID_STREAM, FaultKind.CUT, FaultKind.HANG))

_decoder = msgspec.json.Decoder(CompletionRequest)


class Decision(msgspec.Struct, frozen=True):
    """A call that a model answers: with what, how fast (seconds), and with which fault inside the 200."""

    plan: Plan
    generation_id: str
    stream: bool
    seconds: float
    fault: FaultKind | None


class Upstream:
    """Holds what can change while the simulator runs, and decides calls."""

    def __init__(self, options: SimulatorOptions, clock: Callable[[], float] = time.time) -> None:
        self.options = options
        self.clock = clock
        self.catalogue = load_catalogue()
        self.books = Books(clock, record=options.record)
        self._answerer = Answerer(options)
        self.reset()

    def reset(self) -> None:
        """Go back to the options: no statistics, empty rate windows, the first faults, latency, credits and limit."""
        self.books.reset()
        self.traffic = Traffic(self.clock)
        self.credits_usd: int | Decimal = self.options.credits_usd
        self.key_limit = self.options.key_limit
        self.caps = Caps(self.options, self.clock)
        self.faults = check_faults(self.options.faults)
        self.latencies = Latencies(self.options.latency, self.options.latencies)

    @property
    def credits_left(self) -> bool:
        """Whether the account's balance is positive."""
        return self.books.stats.billed_nano < self.credits_usd * _NANO

    def decide(self, headers: Mapping[str, str], body: bytes, call: Call) -> Decision | Refusal:
        """Return what the call gets. Models are asked in order: the first that does not refuse answers."""
        request = self._read(headers, body)
        if isinstance(request, Refusal):
            return request
        models = self._models(request)
        if isinstance(models, Refusal):
            return models
        outcome: Decision | Refusal = refusals.bad_request("No models provided")
        for model in models:
            call.model = model.id
            outcome = self._ask(model, request, body, call)
            if isinstance(outcome, Decision):
                break
        return outcome

    def book(self, call: Call, decision: Decision, usage: Billable, *, whole: bool) -> Charge:
        """Bill what was generated, and keep it for the later lookup."""
        now = self.clock()
        plan = decision.plan
        charged = charge(plan.endpoint, usage, datetime.fromtimestamp(now, UTC)) if usage.prompt_tokens else NO_CHARGE
        generation = Generation(
            id=decision.generation_id,
            model=plan.model.id,
            provider=plan.endpoint.provider,
            usage=usage,
            billed_nano=charged.total,
            finish_reason=plan.finish_reason if whole else None,
            native_finish_reason=plan.native_finish_reason if whole else None,
            started=call.started,
            ended=now,
            streamed=decision.stream,
            cancelled=not whole,
        )
        self.books.bill(call, generation, whole=whole)
        if whole and decision.fault is None:
            self.traffic.answered(plan.model.id, plan.endpoint.tag, decision.seconds, usage.completion_tokens)
        return charged

    def _read(self, headers: Mapping[str, str], body: bytes) -> CompletionRequest | Refusal:
        refusal = check_key(headers)
        if refusal:
            return refusal
        try:
            request = _decoder.decode(body)
        except msgspec.DecodeError as error:
            return refusals.bad_request(f"Invalid request body: {error}")
        if not request.messages:
            return refusals.bad_request('Input required: specify "messages"')
        if request.models and len(request.models) > _MAX_MODELS:
            return refusals.bad_request(f"'models' array must have {_MAX_MODELS} items or fewer.")
        if request.output_limit is not None and request.output_limit < 1:
            return refusals.bad_request("max_tokens must be at least 1")
        if not self.credits_left:
            return refusals.insufficient_credits()
        return check_limit(self.key_limit, self.books.spending) or request

    def _models(self, request: CompletionRequest) -> list[Model] | Refusal:
        """Return the models to ask, in order."""
        wanted = [request.model] if request.model else []
        wanted += [model for model in request.models or () if model not in wanted]
        if not wanted:
            return refusals.bad_request("No models provided")
        models = []
        for model_id in wanted:
            model = self.catalogue.find(model_id)
            if model is None:
                return refusals.unknown_model(model_id)
            models.append(self.catalogue.answering(model))
        return models

    def _ask(self, model: Model, request: CompletionRequest, body: bytes, call: Call) -> Decision | Refusal:
        """Ask one model: caps, then faults, then whether anyone serves it at that price and length."""
        draws = Draws(self.options.seed, b"call", call.body, str(call.attempt).encode(), model.id.encode())
        seconds = self.latencies.of(model.id)(draws.fraction(_LATENCY))
        refusal = self.caps.admit(model, self.books.stats.in_flight)
        if refusal:
            return refusal
        content = Draws(self.options.seed, b"answer", model.id.encode(), call.body)
        endpoint = choose_endpoint(model, request, body, self.traffic, self.options.spill_rate, content)
        kind = choose_fault(self.faults.of(model.id), draws.fraction(_FAULT))
        if kind in PROVIDERS_FAULTS:
            served = endpoint if isinstance(endpoint, Endpoint) else model.endpoints[0]
            self.traffic.failed(model.id, served.tag)
        if kind is not None and kind not in _IN_THE_200:
            return refusals.fault(kind, model.id, model.endpoints[0].provider, self.clock(), seconds)
        if isinstance(endpoint, Refusal):
            return endpoint
        refusal = _check_context(model, request)
        if refusal:
            return refusal
        plan = self._answerer.plan(request, model, endpoint, content)
        generation_id = f"gen-{int(call.started)}-{draws.name(_ID_LENGTH)}"
        return Decision(plan, generation_id, bool(request.stream), seconds, kind)


def check_key(headers: Mapping[str, str]) -> Refusal | None:
    """Return the 401 of a request without a usable key. Every key but the invalid one is known."""
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    if scheme != "Bearer" or not key:
        return refusals.unauthorized()
    return refusals.unauthorized("User not found.") if key == INVALID_KEY else None


def _check_context(model: Model, request: CompletionRequest) -> Refusal | None:
    if model.context_length is None:
        return None
    prompt, _ = prompt_tokens(request)
    output = request.output_limit or 0
    if prompt + output > model.context_length:
        return refusals.context_exceeded(model.context_length, prompt, output)
    return None
