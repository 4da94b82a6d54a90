"""The command `batchmill`: every command in one group, and every way that one can end as an exit code.

Modules of commands import only click when they are loaded, so that `--help` is quick; the rest comes when they run.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from batchmill.cli import exit_codes
from batchmill.cli.alerts import alerts
from batchmill.cli.archive import archive
from batchmill.cli.audit import audit
from batchmill.cli.breakers import breakers
from batchmill.cli.budgets import budgets
from batchmill.cli.cancel import cancel
from batchmill.cli.check import check
from batchmill.cli.config import config
from batchmill.cli.errors import OutputClosedError
from batchmill.cli.estimate import estimate
from batchmill.cli.keys import keys
from batchmill.cli.limits import limits
from batchmill.cli.models import models
from batchmill.cli.pause import pause
from batchmill.cli.purge import purge
from batchmill.cli.results import results
from batchmill.cli.resume import resume
from batchmill.cli.retry import retry
from batchmill.cli.route import route
from batchmill.cli.run import run
from batchmill.cli.serve import serve
from batchmill.cli.simulate import simulate
from batchmill.cli.spend import spend
from batchmill.cli.spend_recommend import recommend
from batchmill.cli.status import status
from batchmill.cli.stream import stream
from batchmill.cli.submit import submit
from batchmill.cli.worker import worker
from batchmill.config.errors import BatchmillError

ISSUES_URL = "https://github.com/batchmill/batchmill/issues"


class _InOrder(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)


@click.group(
    cls=_InOrder,
    name="batchmill",
    epilog=exit_codes.EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="batchmill", prog_name="batchmill")
@click.option("--debug", is_flag=True, help="Show the traceback of an unexpected error.")
def cli(debug: bool) -> None:
    """Run files of LLM prompts through OpenRouter, or any OpenAI-compatible endpoint, from a queue in Redis.

    \b
    batchmill run prompts.jsonl --simulate     rehearse: nothing leaves this machine, nothing costs
    batchmill run prompts.jsonl                submit, work, show progress, write prompts.results.jsonl
    batchmill submit prompts.jsonl             only hand the lines over; workers do the rest
    batchmill worker --processes 2             work on whatever was submitted

    \b
    The environment:
      OPENROUTER_API_KEY       the key (or BATCHMILL_API_KEY_FILE, a file that holds it)
      BATCHMILL_BASE_URL       another OpenAI-compatible endpoint than OpenRouter
      BATCHMILL_REDIS_URL      your Redis; without it, an embedded server keeps its data in
      BATCHMILL_DATA_DIR       this folder (default ~/.local/share/batchmill)
      BATCHMILL_CONFIG         a TOML file with settings
    """


_COMMANDS = (
    *(estimate, run, submit, worker, serve, status, results, stream, cancel, retry),
    *(keys, budgets, alerts, limits, breakers, pause, resume, audit),
    *(spend, archive, purge),
    *(models, route, simulate, check, config),
)
for _command in _COMMANDS:
    cli.add_command(_command)
spend.add_command(recommend)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _code_of(given)
        sys.stdout.flush()
    except (BrokenPipeError, OutputClosedError):  # somebody like `head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = exit_codes.OK
    sys.exit(code)


def _code_of(arguments: list[str]) -> int:
    try:
        returned = cli.main(arguments, prog_name="batchmill", standalone_mode=False)
        return returned if isinstance(returned, int) else exit_codes.OK
    except click.ClickException as error:
        _explain(error)
        return exit_codes.UNUSABLE
    except (KeyboardInterrupt, click.Abort):
        return exit_codes.DETACHED
    except (BrokenPipeError, OutputClosedError):
        raise
    except BatchmillError as error:
        _say(str(error))
        return _code_for(error)
    except Exception as error:  # noqa: BLE001 - the last line of defence: people get a sentence, not a traceback
        return _unexpected(error, debug="--debug" in arguments)


def _explain(error: click.ClickException) -> None:
    """Say a wrong use in one line; no words at all are answered with the help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "batchmill"
    _say(f"{error.format_message().rstrip('.')}; see `{path} --help`")


def _code_for(error: BatchmillError) -> int:
    from batchmill.openrouter.errors import UpstreamRefusedError

    return exit_codes.REFUSED if isinstance(error, UpstreamRefusedError) else exit_codes.UNUSABLE


def _unexpected(error: Exception, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    hint = "" if debug else "; see where with `batchmill --debug ...`"
    _say(f"unexpected {type(error).__name__}: {error}{hint}; please report it: {ISSUES_URL}")
    return exit_codes.UNUSABLE


def _say(message: str) -> None:
    click.echo(f"batchmill: {message}", err=True)
