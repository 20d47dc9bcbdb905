"""What ``gtn`` answers without torch and Lightning: help, version, the packaged recipes, and errors."""

import os
import sys
import traceback
from collections.abc import Sequence

from gtn_lightning import __version__
from gtn_lightning.cli.packaged import recipe_list, recipe_text
from gtn_lightning.errors import one_line

HELP = """usage: gtn COMMAND [--config RECIPE ...] [--KEY=VALUE ...]

Generative Teaching Networks on PyTorch Lightning. `gtn fit` is `lightning fit` for these recipes.

commands:
  fit       meta-train a teacher
  validate  score a teacher on the validation split
  test      score a teacher on the test split
  predict   write the data that a teacher makes
  distil    make a file of synthetic data from your own data
  compare   compare a file of synthetic data with real data of the same size and cost
  export    write a file of synthetic data in another format: DD-Ranking, Hugging Face, NumPy, PNG
  replay    train fresh networks on a file of synthetic data, and score them
  search    search an architecture
  zoo       list the files of synthetic data that come with the package
  recipes   list the packaged recipes; `gtn recipes NAME` prints one

options:
  --config RECIPE  a packaged recipe's name, or a path; several override one another
  --KEY=VALUE      override a key of the recipe, such as --trainer.max_steps=50
  --teacher FILE   a teacher file to start from; validate, test and predict take its recipe too
  --ckpt_path FILE the checkpoint to go on from; `last` for the newest of the recipe's runs
  --threads N      threads that torch may use on a CPU; 1 unless this or OMP_NUM_THREADS says otherwise
  --version        print the version
  -h, --help       print this; `gtn COMMAND --help` says more of a command

"""

SCORE_HELP = """usage: gtn {command} --teacher FILE [--KEY=VALUE ...]
       gtn {command} --config RECIPE --ckpt_path FILE [--KEY=VALUE ...]

Score a teacher on the {split} split: never-seen learners are taught on its data, and beside it on real data.

keys that are changed most often:
  --model.evaluation.learners=10           learners that are taught
  --model.learners.init_args.learner=MLP   another network
  --trainer.default_root_dir=runs          where the run's folder is made
"""

DATA_HELP = {
    "distil": """usage: gtn distil DATA [--KEY=VALUE ...]

Make a small file of synthetic data from your own data, and compare it with real data. DATA is a folder of images
(train/CLASS/IMAGE and test/CLASS/IMAGE, or CLASS/IMAGE), a name on the Hugging Face hub, a CSV or Parquet file, the
name of a table that scikit-learn bundles, or digits. A folder runs/distil/NAME gets the file synthetic.safetensors,
its card README.md, and the recipe, with which `gtn fit` goes on.

options:
  --minutes=10           how long it may take, comparison included
  --images-per-class=N   synthetic samples of each class; chosen by default
  --target=COLUMN        the column of a table that is to be predicted
  --predicts=numbers     what the target is: classes, numbers, or auto, which takes whole numbers as classes
  --ignore=[COLUMN,...]  columns of a table to leave out
  --size=N               height and width to which images are scaled; by default large ones and those of several sizes
  --out=FOLDER           a new folder for all files
  --seed=0               seed of every random choice
  --cpu                  leave a GPU alone
""",
    "replay": """usage: gtn replay FILE [--KEY=VALUE ...]

Train fresh networks on a file of synthetic data, or one of the zoo by its name, and score them on the test split of the
real data, policies in their environment.

options:
  --learner=MODULE:NAME  your network, a class or function without arguments; or one of this package, such as ConvNet;
                         by default, the networks that the file was made with
  --data=PATH            where the real data lies; by default, where the file says
  --networks=5           fresh networks of each kind
  --scale=1.0            what the learned rates are multiplied by; try 0.3 if a network diverges
  --passes=1             how often the batches are gone through
  --seed=0               seed of the networks' parameters
""",
    "compare": """usage: gtn compare FILE [--KEY=VALUE ...]

Compare a file of synthetic data, or one of the zoo by its name, with real data of the same size and cost: random
samples with hard labels and with the best soft labels, k-center, herding, all real data for as many steps, and to the
end. Networks are those that the file was made with, and others.

options:
  --data=PATH            where the real data lies; by default, where the file says
  --networks=3           fresh networks of each architecture
  --passes=[1,10]        how often the batches of a source are gone through
  --seed=0               seed of networks and of random choices
  --save                 write the scores into the file, and into the README.md of gtn distil beside it
""",
    "export": """usage: gtn export FILE FORMAT OUT

Write a file of synthetic data, or one of the zoo by its name, in another format. Nothing is overwritten.

formats:
  dd-ranking             images.pt, labels.pt and lr.pt in a folder
  hugging-face           a folder that datasets.load_dataset reads, with a card
  npz                    a NumPy archive
  png                    a folder of pictures, with labels.csv
""",
    "zoo": """usage: gtn zoo

List the files of synthetic data that come with the package. `gtn replay NAME` trains networks on one.
""",
}
"""Help of the commands on files of synthetic data."""

DATA_COMMANDS = tuple(DATA_HELP)
"""Commands on files of synthetic data, which take no recipe."""

COMMAND_HELP = {
    "validate": SCORE_HELP.format(command="validate", split="validation"),
    "test": SCORE_HELP.format(command="test", split="test"),
    "fit": """usage: gtn fit --config RECIPE [--KEY=VALUE ...]

Meta-train a teacher. A run gets a folder of its own: checkpoints, teacher.safetensors, metrics.csv, pictures and the
recipe as it was resolved.

keys that are changed most often:
  --trainer.max_steps=600           meta-steps
  --trainer.val_check_interval=100  meta-steps between two validations
  --trainer.accelerator=gpu         where it runs: auto, cpu, gpu
  --trainer.devices=2               processes, one per GPU or CPU core, with --trainer.strategy=ddp
  --trainer.default_root_dir=runs   where the run's folder is made
  --model.inner_loop.steps=10       SGD steps that a learner is taught for
  --model.inner_loop.mode=remat     how the inner gradient is differentiated; auto measures and chooses
  --model.evaluation.learners=10    never-seen learners that are taught at a validation
  --data.init_args.batch_size=256   real images per meta-loss
  --seed_everything=0               seed of every random choice
  --ckpt_path=last                  go on from the newest run of the recipe, or from a checkpoint

arguments of a class:
  gtn fit --model.teacher.help=Generator
""",
    "predict": """usage: gtn predict --teacher FILE [--KEY=VALUE ...]
       gtn predict --config RECIPE --ckpt_path FILE [--KEY=VALUE ...]

Write the data that a teacher makes: synthetic.safetensors in the run's folder.

keys that are changed most often:
  --trainer.default_root_dir=runs   where the run's folder is made
""",
    "search": """usage: gtn search --config RECIPE [--KEY=VALUE ...]

Search an architecture with a cheap score, then train the best ones in full. Needs Optuna:
pip install 'gtn-lightning[search]'. The recipe says what is searched: gtn recipes search_digits prints one.
""",
}

MORE_HELP = """
all keys:
  gtn recipes NAME
      a packaged recipe, with a comment beside every key
  gtn {command} --config RECIPE --print_config
      a recipe with all that it extends, and all defaults
  gtn {command} --help=all
      every key there is, which takes seconds to list

"""

ALL_HELP = "--help=all"
"""What asks for the list of all keys."""

NOTES = """Recipes name classes and so can run code. For a stranger's: --trusted-only allows this package's and
Lightning's alone; --trust MODULE allows those of a module too, in a recipe and in a teacher file.
GTN_TRACEBACK=1 shows where an error was raised; WANDB_MODE=disabled switches W&B off."""


def answer(arguments: Sequence[str]) -> str | None:
    """Return what is printed for a command that needs neither torch nor Lightning, None for the others.

    Args:
        arguments: the arguments after the program's name.

    Raises:
        RecipeError: if there is no packaged recipe of a name.
    """
    match list(arguments):
        case [] | ["-h" | "--help"]:
            return HELP + NOTES
        case ["--version"]:
            return f"gtn {__version__}"
        case ["recipes"] | ["recipes", "-h" | "--help"]:
            return recipe_list()
        case ["recipes", name]:
            return recipe_text(name)
        case [command, *options] if command in DATA_HELP and {"-h", "--help"} & set(options):
            return DATA_HELP[command]
        case [command, *options] if command in COMMAND_HELP and {"-h", "--help"} & set(options):
            return COMMAND_HELP[command] + MORE_HELP.format(command=command) + NOTES
    return None


def refuse(error: BaseException) -> int:
    """Print what is wrong with the user's input in one line, and return the exit code 2."""
    show_traceback()
    print(f"gtn: error: {one_line(error)}", file=sys.stderr)
    return 2


def show_traceback() -> None:
    """Print where the error that is being handled was raised, if ``GTN_TRACEBACK`` asks for it."""
    if os.environ.get("GTN_TRACEBACK", "0") != "0":
        traceback.print_exc()
