"""A line is a trace, each call of it a span, whoever made it; in none of them is a prompt or an answer."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from batchmill.config.settings import TracingSettings
from batchmill.openrouter.outcomes import Retry
from batchmill.store.lanes import Claim
from batchmill.store.model import Line, LineState, Result
from batchmill.workers.line import LineRun, ShardRun
from batchmill.workers.tracing import Tracer, tracer_of

from .workers_helpers import OK, failure

BATCH = "batch_01a20bcf00c3f71811f2a3e18dbe"
ROOT = Path(__file__).parent.parent


def run_of(index: int) -> LineRun:
    claim = Claim("u", "maker/model", f"{BATCH}.0.1", "r", "0")
    return LineRun(Line(index, "a", b'{"messages":["a secret"]}'), ShardRun(claim, []))


def result(index: int, state: LineState = LineState.SUCCEEDED) -> Result:
    return Result(index=index, custom_id="a", model="maker/model", state=state, cost=2_000_000_000)


async def test_calls_of_two_workers_are_in_the_trace_of_their_line() -> None:
    exporters = [InMemorySpanExporter(), InMemorySpanExporter()]
    one, other = (Tracer(exporter) for exporter in exporters)
    one.called(run_of(7), failure(Retry.BACKOFF))
    other.called(run_of(7), OK)
    other.ended(BATCH, result(7))
    other.called(run_of(8), OK)
    for tracer in (one, other):
        tracer.close()
    failed, (good, line, stranger) = exporters[0].get_finished_spans(), exporters[1].get_finished_spans()
    assert failed[0].context.trace_id == good.context.trace_id == line.context.trace_id
    assert stranger.context.trace_id != line.context.trace_id
    assert failed[0].parent is not None
    assert good.parent is not None
    assert failed[0].parent.span_id == good.parent.span_id == line.context.span_id
    assert line.parent is None
    assert failed[0].status.status_code is StatusCode.ERROR
    assert good.attributes is not None
    assert good.attributes["gen_ai.request.model"] == "maker/model"
    assert line.attributes is not None
    assert line.attributes["batchmill.cost_usd"] == 2.0
    assert "secret" not in str([span.to_json() for exporter in exporters for span in exporter.get_finished_spans()])


async def test_a_sample_is_of_whole_lines() -> None:
    exporter = InMemorySpanExporter()
    tracer = Tracer(exporter, sample=0.5)
    for index in range(200):
        tracer.called(run_of(index), OK)
        tracer.ended(BATCH, result(index))
    tracer.close()
    spans = exporter.get_finished_spans()
    traces = {span.context.trace_id for span in spans}
    assert 50 < len(traces) < 150
    assert len(spans) == 2 * len(traces)


def test_nothing_is_traced_where_nobody_listens() -> None:
    assert tracer_of(TracingSettings()) is None


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """An OTLP receiver on loopback."""
    got: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            got.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_run_tells_a_collector_of_each_line(tmp_path: Path) -> None:
    with collector() as (url, got):
        environ = {**os.environ, "BATCHMILL_DATA_DIR": str(tmp_path), "OTEL_EXPORTER_OTLP_ENDPOINT": url}
        subprocess.run(
            [sys.executable, "-m", "batchmill.cli", "run", "-", "--simulate", "--model", "openai/gpt-4o-mini"],
            input=b'{"prompt":"one","max_tokens":4}\n{"prompt":"two","max_tokens":4}\n',
            env=environ, cwd=tmp_path, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
    spans = [span for told in got for of in told.resource_spans for scope in of.scope_spans for span in scope.spans]
    names = sorted(span.name for span in spans)
    assert names == ["batchmill line"] * 2 + ["chat openai/gpt-4o-mini"] * 2
    assert len({span.trace_id for span in spans}) == 2
    assert b"prompt" not in msgspec.json.encode([str(span).replace("gen_ai", "") for span in spans])
