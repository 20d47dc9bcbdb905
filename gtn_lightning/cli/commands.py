"""Running a command, and saying how it has ended."""

import os
import shlex
import sys

import torch

from gtn_lightning.cli import short_names  # noqa: F401  # the parser knows the classes of what is imported
from gtn_lightning.cli.app import GTNCLI
from gtn_lightning.cli.endings import USER_ERRORS, EndedRunError
from gtn_lightning.cli.front_door import refuse, show_traceback
from gtn_lightning.cli.policy import policy_for
from gtn_lightning.cli.quiet import quiet
from gtn_lightning.cli.recipes import SEARCH, Command
from gtn_lightning.cli.search import search
from gtn_lightning.cli.signals import InterruptedBySignal, Signals
from gtn_lightning.cli.teacher_recipe import with_teacher_recipe
from gtn_lightning.cli.working_folder import shielded_programs
from gtn_lightning.teacher_file import check_sizes, read_shapes
from gtn_lightning.trust import trusting


def run(command: Command, signals: Signals) -> int:
    """Run a command; see `gtn_lightning.cli.main`.

    Args:
        command: the command.
        signals: what makes exceptions of signals.

    Returns:
        The exit code.
    """
    given = shlex.join(["gtn", *command.given])
    (name,) = command.line.command
    try:
        with quiet():
            _run(command, signals)
    except EndedRunError as end:
        show_traceback()
        if end.checkpoint:
            kept = f"{end.checkpoint} is kept, go on with: {given} {shlex.join(['--ckpt_path', end.checkpoint])}"
        else:
            kept = "nothing was kept" if name == "fit" else f"run it again: {given}"
        if signals.received is None or signals.speaks:  # one process speaks for all
            print(f"gtn: {end.what}; {kept}", file=sys.stderr)
        return end.code
    except (Exception, InterruptedBySignal) as error:
        if signals.received is not None:
            # A library may have raised an error of its own when it was interrupted.
            interruption = InterruptedBySignal(signals.received)
            if name != SEARCH:
                raise interruption from None
            print(f"gtn: {interruption.ending}; what is scored is kept, go on with: {given}", file=sys.stderr)
            return interruption.code
        if not isinstance(error, USER_ERRORS):
            raise
        return refuse(error)
    return 0


def _run(command: Command, signals: Signals) -> None:
    if command.threads is not None or "OMP_NUM_THREADS" not in os.environ:
        # More threads help small learners little, and slow them down where other programs use the cores: torch's
        # threads wait for each other at every operator, and use the core while they wait (docs/results/threads.md).
        torch.set_num_threads(command.threads or 1)
    with trusting(*command.trust), shielded_programs():
        line, teacher = with_teacher_recipe(command.line, command.trust)
        policy = policy_for(line, teacher, command.strict, command.trust)
        if teacher is not None:
            path = line.recipes[0].path
            check_sizes(teacher.model, read_shapes(path), str(path), teacher.trust)
        with policy.enforced():
            if line.command == [SEARCH]:
                search(line, policy)
            else:
                GTNCLI(line, policy, signals, teacher)
