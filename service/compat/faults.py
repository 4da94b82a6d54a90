"""What is wrong with the lines of a batch, in the words of OpenAI's `errors.data[]`. Never a line's content. Pure."""

import re

from batchmill.producer.intake import Survey
from batchmill.producer.lines import BadLine
from batchmill.store.intakes import Fault

_NO_PRICE = re.compile(r"no usable price is known for (?P<model>.+), so nothing bounds")
_PRICED = ("model_excluded", "no_price", "unbounded", "over_budget", "no_candidate")
"""Codes of what is said of a body by itself: their fields are without the place of the body in the line."""

_WORDS = (
    (" Name it in the line, or one for all lines with --model.", ""),
    ("the batch's --max-cost", "the batch's max_cost_usd"),
    ("give a higher --max-cost", "give a higher max_cost_usd"),
)
"""What the command line calls by other names than the API."""


def faults_of(survey: Survey) -> tuple[Fault, ...]:
    """Return why lines can't run, the first of them."""
    return tuple(_fault(bad) for bad in survey.bad)


def cant_find(file_id: str) -> Fault:
    """Return what is said of an input file that is not there, or not for who asks."""
    message = f"Cannot find file {file_id}, or organization batchmill does not have access to it."
    return Fault("invalid_request", message, "file_id")


def too_large(size: int, allowed: int) -> Fault:
    """Return what is said of an input file with too many bytes."""
    return Fault("file_too_large", f"The input file has {size:,} bytes; a batch may have {allowed:,}. Split it.")


def too_many_queued(lines: int, waiting: int, allowed: int) -> Fault:
    """Return what is said of lines that are more than a key may have waiting."""
    message = f"The API key may have {allowed:,} lines waiting; {waiting:,} are, and these are {lines:,}."
    return Fault("too_many_queued_lines", message)


def defect() -> Fault:
    """Return what is said when the fault is ours."""
    return Fault("server_error", "The service had an error while it looked at the input file. Create the batch again.")


def _fault(bad: BadLine) -> Fault:
    message = bad.message
    for ours, theirs in _WORDS:
        message = message.replace(ours, theirs)
    code = bad.code
    if unknown := _NO_PRICE.match(message):
        code = "model_not_found"
        said = message[:1].upper() + message[1:]
        message = f"The provided model '{unknown['model']}' is not supported by the Batch API. {said}"
    param = f"body.{bad.param}" if bad.code in _PRICED and bad.param and not bad.param.startswith("body") else bad.param
    return Fault(code, message, param, bad.number)
