"""`batchmill simulate`: a stand-in for OpenRouter on this machine."""

import sys
from typing import TYPE_CHECKING

import click

from batchmill.cli.options import POSITIVE

if TYPE_CHECKING:
    from batchmill.openrouter.simulator import Faults, KeyLimit, SimulatorOptions

_SHARE = click.FloatRange(0, 1)


@click.command(short_help="Stand in for OpenRouter: real prices, latencies, faults, rate limits.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8399, show_default=True, help="0 takes a free one.")
@click.option(
    "--latency-ms",
    "latencies",
    metavar="[MODEL=]SPEC",
    multiple=True,
    help="How long a call takes: 200, uniform:100:300 or lognormal:MEDIAN:SIGMA (default lognormal:1200:0.6).",
)
@click.option("--fail-rate", type=_SHARE, default=0.0, help="Share of calls with a passing fault: 429, 5xx, cuts ...")
@click.option("--fault", "faults", metavar="[MODEL=]KIND=SHARE", multiple=True, help="One kind, e.g. 529=0.05.")
@click.option("--rpm", type=POSITIVE, metavar="N", help="At most N requests a minute, then 429.")
@click.option("--max-in-flight", type=POSITIVE, metavar="N", help="At most N requests at once, then 429.")
@click.option(
    "--credits",
    "credits_usd",
    type=POSITIVE,
    default=1_000_000,
    metavar="USD",
    help="Balance of the account, then 402.",
)
@click.option(
    "--key-limit",
    metavar="USD[/RESET]",
    help="The key's own limit, e.g. 5/daily (or weekly, monthly); then 403 until it resets.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same answers and faults.")
@click.option("--early-headers", is_flag=True, help="Send a whole answer's headers at once, its body when it is there.")
@click.option("--record", is_flag=True, help="Keep every call for GET /_sim/calls.")
@click.option("--allow-remote", is_flag=True, help="Listen on a host that other machines reach.")
@click.option("--until-stdin-closes", is_flag=True, hidden=True)
def simulate(
    host: str,
    port: int,
    latencies: tuple[str, ...],
    fail_rate: float,
    faults: tuple[str, ...],
    rpm: int | None,
    max_in_flight: int | None,
    credits_usd: int,
    key_limit: str | None,
    seed: int,
    early_headers: bool,
    record: bool,
    allow_remote: bool,
    until_stdin_closes: bool,
) -> int:
    """Serve a simulated OpenRouter until interrupted; its base URL is the first line on standard output.

    Models and prices are those of OpenRouter's catalogue; answers are made up. GET /_sim/stats tells what was asked.

    \b
    batchmill simulate --latency-ms 300 --fail-rate 0.05
    BATCHMILL_BASE_URL=http://127.0.0.1:8399/api/v1 OPENROUTER_API_KEY=any batchmill run prompts.jsonl
    """
    from batchmill.cli.loop import run_async
    from batchmill.openrouter.simulator import REALISTIC, SimulatorOptions

    by_model = {model: spec for model, _, spec in (latency.rpartition("=") for latency in latencies)}
    options = SimulatorOptions(
        seed=seed,
        latency=by_model.pop("", REALISTIC),
        latencies=by_model,
        faults=_faults(fail_rate, faults),
        rpm={"*": rpm} if rpm else {},
        max_in_flight=max_in_flight,
        credits_usd=credits_usd,
        key_limit=_key_limit(key_limit) if key_limit else None,
        early_headers=early_headers,
        record=record,
        allow_remote=allow_remote,
    )
    return run_async(_serve(options, host, port, until_stdin_closes=until_stdin_closes))


def _key_limit(text: str) -> "KeyLimit":
    import msgspec

    from batchmill.openrouter.simulator import KeyLimit

    usd, _, reset = text.partition("/")
    try:
        return msgspec.convert({"limit_usd": usd, "reset": reset or None}, KeyLimit)
    except msgspec.ValidationError:
        raise click.UsageError(f"--key-limit {text}: write USD or USD/RESET, e.g. 5/daily") from None


def _faults(fail_rate: float, faults: tuple[str, ...]) -> "Faults":
    from batchmill.openrouter.simulator import FaultKind, Faults, ModelFaults

    rates: dict[str, dict[FaultKind, float]] = {"": {}}
    for fault in faults:
        named, _, share = fault.rpartition("=") if "=" in fault else (fault, "", "")
        model, _, kind = named.rpartition("=")
        if kind not in set(FaultKind):
            raise click.UsageError(f"--fault: '{kind}' is no kind of fault; known: {', '.join(FaultKind)}")
        try:
            rates.setdefault(model, {})[FaultKind(kind)] = float(share)
        except ValueError:
            raise click.UsageError(f"--fault {fault}: write KIND=SHARE, e.g. {kind}=0.05") from None
    of_all = rates.pop("")
    models = {model: ModelFaults(rates=own) for model, own in rates.items()}
    return Faults(fail_rate=fail_rate, rates=of_all, models=models)


async def _serve(options: "SimulatorOptions", host: str, port: int, *, until_stdin_closes: bool) -> int:
    import asyncio

    from batchmill.cli import exit_codes
    from batchmill.cli.loop import on_signals
    from batchmill.config.errors import ConfigError
    from batchmill.openrouter.simulator import Simulator

    stop = asyncio.Event()
    with on_signals(stop.set):
        try:
            async with Simulator(options, host, port) as simulator:
                click.echo(simulator.base_url)
                sys.stdout.flush()
                if until_stdin_closes:
                    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)
                else:
                    _tell(simulator.base_url)
                await stop.wait()
        except OSError as error:
            raise ConfigError(f"{host}:{port} can't be listened on: {error.strerror}; choose another --port") from error
    return exit_codes.OK


def _tell(base_url: str) -> None:
    click.echo(
        "To use it, in another terminal:\n"
        f"  export BATCHMILL_BASE_URL={base_url} OPENROUTER_API_KEY=any\n"
        "  batchmill run prompts.jsonl\n"
        "Ctrl-C stops it.",
        err=True,
    )
