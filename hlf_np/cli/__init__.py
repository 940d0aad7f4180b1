"""The command line. What a command needs is imported when it runs, so that `--help` answers at once."""

from __future__ import annotations

import io
import os
import signal
import sys
from types import FrameType

import click

from hlf_np import __version__
from hlf_np.cli.grid import report, run
from hlf_np.cli.single import attack, evaluate, train
from hlf_np.cli.tools import bench, fonts
from hlf_np.errors import UserError
from hlf_np.experiments.plugins import plugin_errors

PROGRAM = "python -m hlf_np"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hlf_np")
def cli() -> None:
    """Are accurate and robust models possible?

    Trains small networks normally and on adversarial examples, attacks them, and shows how robustness
    and generalization go together: "Disentangling Adversarial Robustness and Generalization" (CVPR 2019)
    on the CPU.
    """


for command in (run, train, evaluate, attack, report, bench, fonts):
    cli.add_command(command)


def _terminate(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line. A user's mistake ends in one line and exit code 2, an interruption in one line and 130."""
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # of names that it cannot write, as on stderr
    try:
        with plugin_errors():
            cli.main(prog_name=PROGRAM, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as help_shown:
        click.echo(help_shown.format_message())
        sys.exit(2)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else PROGRAM
        _fail(f"{error.format_message().rstrip('.')}: see `{where} --help`")
    except (UserError, click.ClickException) as error:
        _fail(error.format_message() if isinstance(error, click.ClickException) else str(error))
    except (KeyboardInterrupt, click.Abort):
        resume = ": what is finished is stored; the same command goes on from there" if "run" in sys.argv[1:2] else ""
        click.echo(f"Interrupted{resume}.", err=True)  # click has ended the line before
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on; do not complain at exit
        sys.exit(1)
    except MemoryError:
        _fail("there is not enough memory for this: choose smaller networks, or fewer images")
    except OSError as error:  # such as a full disk where kernels are cached
        where = error.filename or "a file"
        _fail(f"cannot read or write {where} ({error.strerror}): free some space or choose another place")


def _fail(message: str) -> None:
    click.echo(f"hlf_np: {' '.join(message.split())}", err=True)
    sys.exit(2)
