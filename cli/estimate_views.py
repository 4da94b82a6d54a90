"""An estimate, for people and for programs: in full, as one line before a run, and as JSON."""

from typing import TYPE_CHECKING, Any, Final

import click

from batchmill.cli.gate import print_table
from batchmill.cli.words import duration, lines, moment, share
from batchmill.openrouter.money import dollars, to_usd, usd_if_known
from batchmill.producer.estimate import OWN, BudgetEstimate, Estimate
from batchmill.producer.intake import describe

if TYPE_CHECKING:
    from batchmill.cli.sample import Sampled

_COLUMNS: Final = (
    ("model", "left"),
    ("lines", "right"),
    ("prompt", "right"),
    ("answers", "right"),
    ("likely", "right"),
    ("at most", "right"),
)
_THOUSAND: Final = 1000
_SHOWN_BAD: Final = 5
_FEW: Final = 10  # lines of one model, below which the spread of a sample says little


def in_short(found: Estimate) -> str:
    """Return what matters before a run, in a line for each thing."""
    parts = [f"likely cost {_money(found.likely)}", f"at most {_money(found.worst)}"]
    if found.finish is not None:
        parts.append(f"at least {duration(found.finish.seconds)} ({found.finish.because})")
    return "\n".join([", ".join(parts), *(_stop(each, found) for each in found.budgets if each.stopped)])


def print_in_full(found: Estimate, sampled: "Sampled | None") -> None:
    """Print a table by model on standard output, and below it what else there is to know."""
    print_table(
        _COLUMNS,
        [
            [
                each.model,
                f"{each.lines:,}",
                f"{each.prompt_tokens:,}",
                f"{each.completion_tokens:,}{'' if each.observed else ' ?'}",
                _money(each.likely),
                _money(each.worst),
            ]
            for each in found.models
        ],
    )
    for line in _notes(found, sampled):
        click.echo(line)


def as_object(found: Estimate, sampled: "Sampled | None") -> dict[str, Any]:
    """Return the same for `--json`: money in USD, null where no price is known, times in seconds and unix ms."""
    return {
        "lines": found.lines,
        "bad_lines": found.bad_count,
        "likely_cost_usd": usd_if_known(found.likely),
        "likely_low_usd": usd_if_known(found.low),
        "likely_high_usd": usd_if_known(found.high),
        "max_cost_usd": usd_if_known(found.worst),
        "lines_that_fit": found.fits,
        "seconds": None if found.finish is None else round(found.finish.seconds, 1),
        "seconds_because": None if found.finish is None else found.finish.because,
        "models": [
            {
                "model": each.model,
                "lines": each.lines,
                "prompt_tokens": each.prompt_tokens,
                "completion_tokens": each.completion_tokens,
                "answers_observed": each.observed,
                "likely_cost_usd": usd_if_known(each.likely),
                "max_cost_usd": usd_if_known(each.worst),
            }
            for each in found.models
        ],
        "unpriced_models": found.unpriced,
        "budgets": [
            {
                "name": each.name,
                "window": each.window,
                "project": each.project,
                "limit_usd": to_usd(each.limit),
                "free_usd": to_usd(each.free),
                "lines": each.lines,
                "lines_stopped": each.stopped,
                "resets_ms": each.resets_ms,
            }
            for each in found.budgets
        ],
        "errors": [describe(bad) for bad in found.bad],
        "sample": None
        if sampled is None
        else {"batch_id": sampled.batch_id, "lines": sampled.lines, "cost_usd": to_usd(sampled.cost)},
    }


def _notes(found: Estimate, sampled: "Sampled | None") -> list[str]:
    notes = [f"{lines(found.lines)}: likely {_money(found.likely)}, at most {_money(found.worst)}"]
    if sampled is not None:
        notes.append(_sample(found, sampled))
    elif not all(each.observed for each in found.models):
        notes.append("?: answers of a usual length; nobody has seen enough of this model lately (try --sample 20)")
    for model, count in found.unpriced.items():
        notes.append(f"{model}: no usable price is known, {lines(count)}; say it in [[prices]] of the config file")
    stopped = [each for each in found.budgets if each.stopped]
    notes += [_stop(each, found) for each in stopped]
    if found.budgets and not stopped:
        notes.append(f"likely fits in {', '.join(_named(each) for each in found.budgets)}")
    if found.finish is None:
        notes.append("time: nobody knows; no limit is set, and no call of these models was seen lately")
    else:
        notes.append(f"time: at least {duration(found.finish.seconds)}, by {found.finish.because}")
    if found.bad_count:
        notes.append(f"{lines(found.bad_count)} can't be run:")
        notes += [f"  {describe(bad)}" for bad in found.bad[:_SHOWN_BAD]]
        if found.bad_count > _SHOWN_BAD:
            notes.append(f"  ... and {found.bad_count - _SHOWN_BAD:,} more")
    return notes


def _sample(found: Estimate, sampled: "Sampled") -> str:
    head = f"sample: {lines(sampled.lines)} cost {dollars(sampled.cost)} ({sampled.batch_id})"
    if found.low is None or found.high is None:
        return f"{head}; it tells nothing of some models: take more lines"
    few = any(each.lines < _FEW for each in sampled.measured.values())
    hint = "; few lines of some models, so this is rough: take more" if few else ""
    return f"{head}; all of them likely between {dollars(found.low)} and {dollars(found.high)}{hint}"


def _stop(budget: BudgetEstimate, found: Estimate) -> str:
    """Say which budget stops the lines, after how many of them and when, and what then."""
    covered = budget.lines - budget.stopped
    told = (
        f"{_named(budget)} stops it after about {covered:,} of {lines(budget.lines)} ({share(covered, budget.lines)})"
    )
    if found.finish is not None and found.lines:
        told += f", {duration(found.finish.seconds * found.fits / found.lines)} in at the earliest"
    if budget.resets_ms is not None:
        return f"{told}; the rest waits until {moment(budget.resets_ms / _THOUSAND)}"
    return f"{told}; the rest waits for a raise"


def _named(budget: BudgetEstimate) -> str:
    if budget.name == OWN:
        return f"{OWN} ({dollars(budget.limit)})"
    return f"budget {budget.name} ({dollars(budget.free)} free of {dollars(budget.limit)})"


def _money(nano: int | None) -> str:
    return "unknown" if nano is None else dollars(nano)
