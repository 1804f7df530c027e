"""The ``qexp`` command: its sub-commands, and how every error becomes one line and an exit code.

Only what ``--help`` needs is imported here; each command imports the rest when it runs.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from qexp.cli.check import check
from qexp.cli.claims import EPILOG as CLAIMS_EXAMPLES
from qexp.cli.claims import claims
from qexp.cli.config import EPILOG as CONFIG_EXAMPLES
from qexp.cli.config import config
from qexp.cli.doctor import doctor
from qexp.cli.export import EPILOG as EXPORT_EXAMPLES
from qexp.cli.export import export
from qexp.cli.listing import EPILOG as LIST_EXAMPLES
from qexp.cli.listing import list_choices
from qexp.cli.report import EPILOG as REPORT_EXAMPLES
from qexp.cli.report import report
from qexp.cli.reproduce import EPILOG as REPRODUCE_EXAMPLES
from qexp.cli.reproduce import plan, reproduce
from qexp.cli.run import EPILOG as RUN_EXAMPLES
from qexp.cli.run import run
from qexp.cli.show import EPILOG as SHOW_EXAMPLES
from qexp.cli.show import show
from qexp.cli.status import LOGS_EXAMPLES, STATUS_EXAMPLES, cancel, logs, status
from qexp.cli.sweep import EPILOG as SWEEP_EXAMPLES
from qexp.cli.sweep import resume, sweep
from qexp.cli.table import EPILOG as TABLE_EXAMPLES
from qexp.cli.table import table
from qexp.cli.track import track
from qexp.conf.errors import RunError, UserError

app = typer.Typer(
    name="qexp",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run, compare and tabulate experiments on low-precision transformers.\n\n"
    "One configuration gives one record: train or load a network, quantize it, measure both.",
    epilog="[bold]First steps[/]\n\n"
    "qexp run                          the embedded default: minutes, no download\n\n"
    "qexp run method=gated_attention   the same with another method\n\n"
    "qexp table                        both, side by side\n\n"
    "qexp list methods                 what else there is\n\n"
    "qexp doctor                       what this machine can do",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"qexp {version('qexp')}")
        raise typer.Exit()


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options of ``qexp`` itself."""


app.command("run", epilog=RUN_EXAMPLES)(run)
app.command("sweep", epilog=SWEEP_EXAMPLES)(sweep)
app.command("status", epilog=STATUS_EXAMPLES)(status)
app.command("resume")(resume)
app.command("cancel")(cancel)
app.command("logs", epilog=LOGS_EXAMPLES)(logs)
app.add_typer(track, name="track")
app.command("config", epilog=CONFIG_EXAMPLES)(config)
app.command("list", epilog=LIST_EXAMPLES)(list_choices)
app.command("show", epilog=SHOW_EXAMPLES)(show)
app.command("table", epilog=TABLE_EXAMPLES)(table)
app.command("plan", epilog=REPRODUCE_EXAMPLES)(plan)
app.command("reproduce", epilog=REPRODUCE_EXAMPLES)(reproduce)
app.command("claims", epilog=CLAIMS_EXAMPLES)(claims)
app.command("report", epilog=REPORT_EXAMPLES)(report)
app.command("check")(check)
app.command("export", epilog=EXPORT_EXAMPLES)(export)
app.command("doctor")(doctor)


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 failed during a run, 2 bad input, 130 stopped by Ctrl-C."""
    try:
        app(prog_name="qexp")
    except UserError as error:
        sys.exit(_complain(error, 2))
    except RunError as error:
        sys.exit(_complain(error, 1))
    except KeyboardInterrupt:
        sys.exit(130)


def _complain(error: Exception, code: int) -> int:
    print(f"qexp: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code
