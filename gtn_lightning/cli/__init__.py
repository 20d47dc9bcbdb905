"""The command line ``gtn``."""

import sys
from collections.abc import Sequence

from gtn_lightning.cli.early_checks import check_command
from gtn_lightning.cli.front_door import DATA_COMMANDS, answer, refuse
from gtn_lightning.cli.recipes import Command, read_command
from gtn_lightning.cli.signals import InterruptedBySignal, Signals
from gtn_lightning.cli.working_folder import leave_out_folder_style
from gtn_lightning.errors import RecipeError
from gtn_lightning.streams import escape_unencodable

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: the arguments after the program's name; None for those of the process, which then ends with this.

    Returns:
        The exit code: 0; 2 for wrong input; 128 plus the signal's number for a run that a signal has ended (130
        for Ctrl-C, 143 for SIGTERM, 129 for a closed terminal); 1 for a run whose other processes have ended.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    escape_unencodable(sys.stdout, sys.stderr)
    with Signals(until_exit=args is None) as signals:
        try:
            try:
                if (text := answer(arguments)) is not None:
                    print(text)
                    return 0
                if arguments[0] in DATA_COMMANDS:
                    return _run(arguments, signals)
                command = read_command(arguments)
                check_command(command.line)
            except (RecipeError, OSError) as error:
                return refuse(error)
            return _run(command, signals)
        except InterruptedBySignal as interruption:
            if signals.speaks:
                print(f"gtn: {interruption.ending} before the run began; nothing was kept", file=sys.stderr)
            return interruption.code


def _run(command: Command | Sequence[str], signals: Signals) -> int:
    """Run a command: one that takes recipes, or the arguments of one on a file of synthetic data."""
    if "lightning.pytorch" in sys.modules and "pytorch_lightning" not in sys.modules:
        signals.release()
        return refuse(
            RecipeError("gtn works with pytorch_lightning: in a program that imports lightning, run gtn as a command")
        )
    try:
        leave_out_folder_style()
        # These take seconds, in which Ctrl-C has to work.
        if isinstance(command, Command):
            from gtn_lightning.cli.commands import run
        else:
            from gtn_lightning.cli.data_commands import run_data_command
    except Exception:
        signals.release()  # a library that was interrupted while it was imported may have raised an error of its own
        raise
    signals.release()
    return run(command, signals) if isinstance(command, Command) else run_data_command(command)
