"""From one whole HTTP answer to its Outcome. Pure: no I/O, no clock.

reply ── not 2xx ───────────────────────────── Failure, by status and error body
      └─ 2xx ── a choice that is whole ─────── Answer
             ├─ error, or only failed choices  Failure, by the error's own code (the 200 was sent too early)
             └─ anything else ──────────────── Failure invalid_response, maybe billed
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from batchmill.openrouter.classify import Verdict, classify, provider_fault, status_of
from batchmill.openrouter.errors import CODES, ErrorReport, error_body, read_error, wait_told
from batchmill.openrouter.outcomes import Answer, Billed, Failure, Outcome
from batchmill.openrouter.wire import Completion, cost_of, decode_completion, has_content, is_absent, tokens_of

GENERATION_ID: Final = "x-generation-id"
SUCCESSES: Final = range(200, 300)
_NOTHING: Final = Completion()
_NOT_A_COMPLETION: Final = provider_fault("invalid_response", Billed.MAYBE)
_GAVE_UP: Final = provider_fault("provider_error")


class Reply(msgspec.Struct):
    """One whole HTTP answer. `headers` find a name in lower case; times in milliseconds since the request was sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    latency_ms: int
    first_token_ms: int | None = None


def judge(reply: Reply, now: float) -> Outcome:
    """Return what an HTTP answer means; `now` in epoch seconds, for waits that are told as a date."""
    if reply.status not in SUCCESSES:
        return refuse(reply, now)
    completion = decode_completion(reply.body)
    if completion is None:
        return _failure(reply, now, (reply.status, None, _NOT_A_COMPLETION), _NOTHING)
    choices = completion.choices
    if not is_absent(completion.error) or not choices or all(choice.failed for choice in choices):
        return _failed_inside(reply, now, completion)
    usage = completion.usage
    return Answer(
        one_line(readable(reply.body)),
        completion.model or "",
        tokens_of(usage),
        cost_of(usage),
        reply.latency_ms,
        choices[0].finish_reason,
        completion.provider,
        completion.id or reply.headers.get(GENERATION_ID),
        reply.first_token_ms,
    )


def readable(body: bytes) -> bytes:
    """Return the body as valid UTF-8: an answer that was paid for is kept, with its bad bytes replaced."""
    if body.isascii():
        return body
    try:
        body.decode()
    except UnicodeDecodeError:
        return body.decode(errors="replace").encode()
    return body


def refuse(reply: Reply, now: float) -> Failure:
    """Return what an HTTP answer with an error status means; `now` as in `judge`."""
    report = read_error(reply.body)
    return _failure(reply, now, (reply.status, report, classify(reply.status, report)), _NOTHING)


def lost(verdict: Verdict, latency_ms: int, headers: Mapping[str, str], partial: bytes = b"{}") -> Failure:
    """Return the failure of a call that ended without an answer; `partial` is what had come of a stream."""
    completion = decode_completion(partial) or _NOTHING
    cost = cost_of(completion.usage)
    return Failure(
        code=verdict.code,
        message=CODES[verdict.code],
        retry=verdict.retry,
        fault=verdict.fault,
        billed=_billed(verdict, cost),
        provider=completion.provider,
        generation_id=completion.id or headers.get(GENERATION_ID),
        usage=tokens_of(completion.usage) if completion.usage else None,
        cost=cost,
        latency_ms=latency_ms,
    )


def one_line(body: bytes) -> bytes:
    """Return JSON without the blanks around it and without line breaks, so that it can be a line of a JSONL file.

    OpenRouter sends blanks ahead of a slow answer to keep the connection alive; other servers send indented JSON.
    Inside strings a line break is always escaped, so nothing of the content changes.
    """
    body = body.strip()
    return msgspec.json.format(body, indent=-1) if b"\n" in body else body


def _failed_inside(reply: Reply, now: float, completion: Completion) -> Failure:
    """A 200 without a usable choice: its status was sent before the failure happened."""
    choices = completion.choices or ()
    errors = (completion.error, *(choice.error for choice in choices))
    body = next((error_body(error) for error in errors if not is_absent(error)), None)
    report = read_error(body) if body else None
    if report is not None:
        status = status_of(report)
        verdict = classify(status, report)
    else:
        status = reply.status
        verdict = _GAVE_UP if choices else _NOT_A_COMPLETION
    # zero completion insurance: an error before the first token is not charged; after it, nobody promises
    if verdict.billed is Billed.NO and has_content(reply.body):
        verdict = msgspec.structs.replace(verdict, billed=Billed.MAYBE)
    return _failure(reply, now, (status, report, verdict), completion, body)


def _failure(
    reply: Reply,
    now: float,
    found: tuple[int, ErrorReport | None, Verdict],
    completion: Completion,
    body: bytes | None = None,
) -> Failure:
    status, report, verdict = found
    cost = cost_of(completion.usage)
    return Failure(
        code=verdict.code,
        message=_message(status, report, verdict),
        retry=verdict.retry,
        fault=verdict.fault,
        billed=_billed(verdict, cost),
        status=status,
        scope=verdict.scope,
        retry_after=wait_told(status, report, reply.headers, now),
        body=one_line(body or error_body(reply.body)) if report else None,
        provider=(report.provider if report else None) or completion.provider,
        generation_id=completion.id or reply.headers.get(GENERATION_ID),
        usage=tokens_of(completion.usage) if completion.usage else None,
        cost=cost,
        latency_ms=reply.latency_ms,
    )


def _billed(verdict: Verdict, cost: int | None) -> Billed:
    if cost is None:
        return verdict.billed
    return Billed.YES if cost else Billed.NO


def _message(status: int, report: ErrorReport | None, verdict: Verdict) -> str:
    meaning = CODES[verdict.code]
    if verdict.code == "wrong_endpoint":
        return f"{meaning} (HTTP {status}); check BATCHMILL_BASE_URL"
    if report and report.flagged_for is not None:  # the upstream's own words may quote the input
        return f"{meaning}: {report.flagged_for}"
    return (report.message if report else "") or f"{meaning} (HTTP {status})"
