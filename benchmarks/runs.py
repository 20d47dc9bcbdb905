"""Short runs of ``gtn fit`` to measure something about."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def fit(recipe: str, folder: str, overrides: Sequence[str], environment: Mapping[str, str]) -> Path:
    """Run a packaged recipe on the CPU, without W&B; return the run's folder.

    Args:
        recipe: its name.
        folder: an empty folder for the run.
        overrides: of the recipe's keys.
        environment: variables besides those of this process.
    """
    command = [str(Path(sys.executable).with_name("gtn")), "fit", "--config", recipe, "--trainer.accelerator=cpu"]
    command += [f"--trainer.default_root_dir={folder}", *overrides]
    variables = {**os.environ, "WANDB_MODE": "disabled", **environment}
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {(result.stderr.strip().splitlines() or ['killed'])[-1]}")
    (run,) = Path(folder).iterdir()
    return run
