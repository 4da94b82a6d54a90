"""OpenTelemetry: a line is a trace, each call of it a span. Only with `tracing.endpoint` and the extra `otel`.

    line  ├──────── from the batch's birth to the result ────────┤     batchmill line
    call            ├── sent ── answered ──┤                           chat openai/gpt-4o-mini

A trace's id follows from the batch and the line's place, so that calls by several workers are in one trace. Attributes
are those of the semantic conventions for generative AI, and `batchmill.*`; there is no prompt and no answer in them.
"""

import hashlib
import time
from typing import TYPE_CHECKING, Final

import structlog

from batchmill.config.settings import TracingSettings
from batchmill.openrouter.money import to_usd
from batchmill.openrouter.outcomes import Answer, Outcome
from batchmill.store.ids import born_ms
from batchmill.store.model import Result
from batchmill.workers.line import LineRun

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.util.types import AttributeValue

log = structlog.get_logger()

_NS: Final = 1_000_000  # in a millisecond
_TRACE_BYTES: Final = 16
_SPAN_BYTES: Final = 8
_WHOLE: Final = 2**64


class Tracer:
    """Makes the spans of one process's lines. Calls never wait: a thread of the library's exports."""

    def __init__(self, exporter: "SpanExporter", *, sample: float = 1.0) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        class Ids(RandomIdGenerator):
            """Gives the next root span the ids that its line has."""

            root: tuple[int, int] | None = None

            def generate_trace_id(self) -> int:
                return self.root[0] if self.root else super().generate_trace_id()

            def generate_span_id(self) -> int:
                return self.root[1] if self.root else super().generate_span_id()

        self._ids = Ids()
        self._most = round(sample * _WHOLE)
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "batchmill-worker"}),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("batchmill")

    def called(self, run: LineRun, outcome: Outcome) -> None:
        """Tell of a call that ended just now."""
        from opentelemetry import trace

        batch_id = run.shard.claim.batch_id
        trace_id, root = _ids(batch_id, run.line.index)
        if not self._wanted(trace_id):
            return
        parent = trace.SpanContext(trace_id, root, is_remote=True, trace_flags=trace.TraceFlags(1))
        end = time.time_ns()
        span = self._tracer.start_span(
            f"chat {run.model}",
            trace.set_span_in_context(trace.NonRecordingSpan(parent)),
            trace.SpanKind.CLIENT,
            _of_call(run, outcome),
            start_time=end - outcome.latency_ms * _NS,
        )
        if not isinstance(outcome, Answer):
            span.set_status(trace.StatusCode.ERROR, outcome.code)
        span.end(end)

    def ended(self, batch_id: str, result: Result) -> None:
        """Tell of a line that has its result: the whole of its trace."""
        from opentelemetry import trace
        from opentelemetry.context import Context

        self._ids.root = _ids(batch_id, result.index)
        try:
            if not self._wanted(self._ids.root[0]):
                return
            span = self._tracer.start_span(
                "batchmill line", Context(), attributes=_of_line(batch_id, result), start_time=born_ms(batch_id) * _NS
            )
        finally:
            self._ids.root = None
        if not result.succeeded:
            span.set_status(trace.StatusCode.ERROR, result.error_code or result.state.value)
        span.end()

    def close(self) -> None:
        """Export what is left. Blocks; run it in a thread."""
        self._provider.shutdown()

    def _wanted(self, trace_id: int) -> bool:
        """Whether a line is in the sample: the same answer by every worker."""
        return trace_id % _WHOLE < self._most


def tracer_of(settings: TracingSettings) -> Tracer | None:
    """Return what makes spans where the settings want any; without the library it is said, and None."""
    if not settings.endpoint:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        log.warning("tracing.not_installed", do="pip install 'batchmill[otel]'")
        return None
    return Tracer(OTLPSpanExporter(f"{settings.endpoint.rstrip('/')}/v1/traces"), sample=settings.sample)


def _ids(batch_id: str, index: int) -> tuple[int, int]:
    """Return the ids of a line's trace and of its root span."""
    digest = hashlib.blake2b(f"{batch_id}.{index}".encode(), digest_size=_TRACE_BYTES + _SPAN_BYTES).digest()
    return int.from_bytes(digest[:_TRACE_BYTES], "big"), int.from_bytes(digest[_TRACE_BYTES:], "big")


def _of_call(run: LineRun, outcome: Outcome) -> "dict[str, AttributeValue]":
    told: dict[str, AttributeValue | None] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": outcome.provider,
        "gen_ai.request.model": run.model,
        "gen_ai.response.id": outcome.generation_id,
        "batchmill.batch_id": run.shard.claim.batch_id,
        "batchmill.line": run.line.index,
        "batchmill.attempt": len(run.attempts) + 1,
        "batchmill.project": run.shard.terms.project,
        "batchmill.cost_usd": _usd(outcome.cost),
    }
    if isinstance(outcome, Answer):
        told |= {
            "gen_ai.response.model": outcome.model,
            "gen_ai.usage.input_tokens": outcome.usage.prompt_tokens,
            "gen_ai.usage.output_tokens": outcome.usage.completion_tokens,
            "gen_ai.response.finish_reasons": [outcome.finish_reason] if outcome.finish_reason else None,
        }
    else:
        told["error.type"] = outcome.code
    return {name: value for name, value in told.items() if value is not None}


def _of_line(batch_id: str, result: Result) -> "dict[str, AttributeValue]":
    told: dict[str, AttributeValue | None] = {
        "batchmill.batch_id": batch_id,
        "batchmill.line": result.index,
        "batchmill.state": result.state.value,
        "batchmill.attempts": len(result.attempts),
        "batchmill.cached": result.cached,
        "batchmill.cost_usd": _usd(result.cost),
        "gen_ai.request.model": result.model,
        "error.type": result.error_code,
    }
    return {name: value for name, value in told.items() if value is not None}


def _usd(nano: int | None) -> float | None:
    """Return dollars as a trace can hold them, which knows no decimals: to look at, not for books."""
    return None if nano is None else float(to_usd(nano))
