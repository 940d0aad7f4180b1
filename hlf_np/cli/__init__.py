"""The command line. Commands import what they need when they run, so that `--help` is fast."""

from __future__ import annotations

import io
import os
import signal
import sys
from types import FrameType

import click

from hlf_np import __version__
from hlf_np.cli.grid import explore, report, run
from hlf_np.cli.lessons import lessons
from hlf_np.cli.single import attack, evaluate, train
from hlf_np.cli.tools import bench, fonts
from hlf_np.experiments.configuration.plugins import plugin_errors
from hlf_np.support.errors import UserError

PROGRAM = "python -m hlf_np"
# Threads of NumPy's linear algebra, whose roundings depend on their number. It reads these when NumPy is imported.
LINEAR_ALGEBRA_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hlf_np")
def cli() -> None:
    """Are accurate and robust models possible?

    Trains small networks with and without adversarial examples, attacks them, and reports how robustness and
    generalization are related: the experiment of "Disentangling Adversarial Robustness and Generalization"
    (Stutz, Hein and Schiele, CVPR 2019), on the CPU.
    """


for command in (run, train, evaluate, attack, report, explore, bench, fonts, lessons):
    cli.add_command(command)


def _terminate(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line.

    Errors that the user can correct end with a one-line message and exit code 2, interruptions with exit code 130.
    """
    if os.name != "posix":  # it uses locks and signals that Windows does not have
        _fail("hlf_np runs on Linux and macOS: on Windows, use the Windows Subsystem for Linux")
    for variable in LINEAR_ALGEBRA_THREADS:
        os.environ.setdefault(variable, "1")
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that cannot be encoded, as on stderr
    try:
        with plugin_errors():
            cli.main(prog_name=PROGRAM, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as help_shown:
        click.echo(help_shown.format_message())
        sys.exit(2)
    except click.UsageError as error:
        command_path = error.ctx.command_path if error.ctx else PROGRAM
        _fail(f"{error.format_message().rstrip('.')}: see `{command_path} --help`")
    except (UserError, click.ClickException) as error:
        _fail(error.format_message() if isinstance(error, click.ClickException) else str(error))
    except (KeyboardInterrupt, click.Abort):
        resume = ": finished work is stored; repeat the command to resume" if "run" in sys.argv[1:2] else ""
        click.echo(f"Interrupted{resume}.", err=True)  # click has already ended the previous line
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit must not fail again
        sys.exit(1)
    except MemoryError:
        _fail("out of memory: choose smaller networks or fewer images")
    except OSError as error:  # such as a full disk when a kernel is cached
        path = error.filename or "a file"
        _fail(f"cannot read or write {path} ({error.strerror}): free some space or choose another folder")


def _fail(message: str) -> None:
    click.echo(f"hlf_np: {' '.join(message.split())}", err=True)
    sys.exit(2)
