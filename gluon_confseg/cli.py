"""The command line: `confseg <verb>`. Thin: each verb imports what it needs, so that --help is quick."""

import shlex
import sys
from pathlib import Path
from typing import Tuple

import click

from . import __version__
from .cli_checks import check_data, doctor, info
from .cli_labelmaps import confusion, groups, official
from .cli_results import report, table
from .cli_training import launch, run, study
from .cli_using import evaluate, export, predict
from .errors import ConfsegError, one_line
from .interrupts import INTERRUPTED, second_ends


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option(
    "--plugin",
    "plugins",
    metavar="FILE.py",
    multiple=True,
    help="Run this Python file first; it registers a network of your own (see gluon_confseg/nn/encoders.py).",
)
def cli(plugins: Tuple[str, ...]) -> None:
    """Find out which classes a segmentation network confuses, and remove the confusion (Geng et al. 2018)."""
    from .launching import end_with_the_job

    end_with_the_job()  # before MXNet, whose import does not return in a job's servers and scheduler
    for path in plugins:
        from .nn.plugins import run_plugin

        run_plugin(path)


for verb in (run, study, launch, table, report, predict, evaluate, export):
    cli.add_command(verb)
for verb in (official, confusion, groups, doctor, check_data, info):
    cli.add_command(verb)


def main() -> None:
    """Entry point: exit code 0, 1 for a failure of ours, 2 for the user's mistakes, 130 after Ctrl-C."""
    again = f"what was finished is saved; go on with\n  {_command()}"
    with second_ends("stopping; Ctrl-C again ends it at once", f"ended at once; {again}"):
        try:
            code = cli.main(standalone_mode=False)
        except ConfsegError as error:
            print(f"confseg: error: {one_line(str(error))}", file=sys.stderr)
            code = 2
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            print(f"\nconfseg: interrupted; {again}", file=sys.stderr)
            code = INTERRUPTED
    sys.exit(code)


def _command() -> str:
    """This command, for a shell."""
    name = sys.argv[0] if Path(sys.argv[0]).is_file() else "confseg"
    return " ".join(map(shlex.quote, [name, *sys.argv[1:]]))
