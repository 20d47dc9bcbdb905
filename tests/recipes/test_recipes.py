"""Every recipe and sweep that comes with the package parses, and its model can be built."""

import re
import shlex
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from gtn_lightning.cli import main
from gtn_lightning.cli.app import GTNCLI
from gtn_lightning.cli.policy import policy_for
from gtn_lightning.cli.recipes import packaged_recipes, read_command_line
from gtn_lightning.cli.signals import Signals

ALL = packaged_recipes()
RECIPES = {name: path for name, path in ALL.items() if not name.startswith("search_")}
"""What `gtn fit` takes; tests/nas/test_search.py runs the others."""
TABLE = Path(__file__).parents[2] / "benchmarks" / "nas_reference.csv"
SWEEPS = sorted(Path(str(resources.files("gtn_lightning.recipes"))).glob("sweeps/*.yaml"))


class Instantiated(GTNCLI):
    """Builds what a recipe says, and stops before the run."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def instantiate(*arguments: str) -> Instantiated:
    if "nas_mnist_ranked" in arguments:  # its table is read from the repository's folder
        arguments = (*arguments, f"--model.learners.init_args.reference.init_args.path={TABLE}")
    line = read_command_line(["fit", *arguments], strict=True)
    return Instantiated(line, policy_for(line, None, strict=True, trust=[]), Signals())


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["gtn"])
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_builds_its_model_without_data(name: str, tmp_path: Path) -> None:
    cli = instantiate("--config", name, "--trainer.accelerator=cpu")
    assert cli.model.inner_loop.steps == cli.model.curriculum.steps
    assert last_step_of_the_outer_rate(cli) == cli.trainer.max_steps
    assert not any(path.is_file() for path in tmp_path.rglob("*"))  # nothing is downloaded or written before the run


@pytest.mark.parametrize("name", ALL)
def test_recipe_begins_with_its_command_and_keeps_its_runs_apart(name: str) -> None:
    content = ALL[name].read_text()
    command = "search" if name.startswith("search_") else "fit"
    assert content.splitlines()[0].startswith(f"# gtn {command} --config {name}")
    assert content.splitlines()[1].startswith("# ")
    if command == "fit":
        assert yaml.safe_load(content)["trainer"]["default_root_dir"] == f"runs/{name}"


def test_recipes_command_lists_each_with_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split() for line in lines if line.startswith("  ")]
    assert sorted(words[0] for words in listed) == sorted(ALL)
    assert all(len(words) > 4 for words in listed)
    assert [line for line in lines if not line.startswith("  ")] == ["gtn fit --config", "gtn search --config"]


def test_every_recipe_has_its_row_in_the_table() -> None:
    table = Path(str(resources.files("gtn_lightning.recipes"))) / "README.md"
    if not table.exists():
        pytest.skip("the table is not installed with the package")
    rows = [line.split("|")[1:-1] for line in table.read_text().splitlines() if line.startswith("|")]
    heading = [cell.strip() for cell in rows[0]]
    assert heading == ["recipe", "contents", "machine", "time", "memory", "result"]
    assert all(len(row) == len(heading) for row in rows)
    assert sorted(name for row in rows[2:] for name in re.findall(r"`(\w+)`", row[0])) == sorted(ALL)


def test_an_override_reaches_every_key_that_refers_to_it() -> None:
    cli = instantiate("--config", "digits", "--model.inner_loop.steps=5", "--seed_everything=7")
    assert (cli.model.curriculum.steps, cli.model.inner_optimizer.steps) == (5, 5)
    assert (cli.model.seed, cli.datamodule.seed) == (7, 7)


def last_step_of_the_outer_rate(cli: Instantiated) -> int:
    """The meta-step in which the outer optimizer's rate reaches its minimum."""
    steps: int = cli.model.configure_optimizers()["lr_scheduler"]["scheduler"].T_max
    return steps


@pytest.mark.parametrize("name", RECIPES)
def test_the_outer_rate_follows_another_number_of_meta_steps(name: str) -> None:
    cli = instantiate("--config", name, "--trainer.accelerator=cpu", "--trainer.max_steps=50")
    assert last_step_of_the_outer_rate(cli) == cli.trainer.max_steps == 50


def test_an_override_stands_above_a_short_recipe_which_stands_above_the_recipe_it_extends() -> None:
    plain = instantiate("--config", "mnist_cpu", "--data.init_args.path=somewhere")
    extended, own = (yaml.safe_load(RECIPES[name].read_text()) for name in ("mnist", "mnist_cpu"))
    size = own["data"]["init_args"]["batch_size"]
    assert size != extended["data"]["init_args"]["batch_size"]
    assert (plain.datamodule.batch_size, plain.datamodule.path) == (size, "somewhere")
    # The optimizer's steps refer to the inner steps in the recipe that is extended.
    assert plain.model.inner_optimizer.steps == plain.model.inner_loop.steps == own["model"]["inner_loop"]["steps"]
    assert (
        instantiate("--config", "mnist_cpu", "--model.inner_optimizer.init_args.lr=0.3").model.inner_optimizer.lr == 0.3
    )


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda path: path.stem)
@pytest.mark.parametrize("end", ["low", "high"])
def test_sweep_makes_a_command_that_the_parser_takes(sweep: Path, end: str) -> None:
    content = yaml.safe_load(sweep.read_text())

    def chosen(parameter: dict[str, Any]) -> Any:
        ends = parameter.get("values") or [parameter["min"], parameter["max"]]
        return ends[0] if end == "low" else ends[-1]

    values = {name: {"value": chosen(parameter)} for name, parameter in content["parameters"].items()}
    expanded = create_sweep_command_args({"args": values})["args"]
    command: list[str] = []
    for part in create_sweep_command(content["command"]):
        command += expanded if part == "${args}" else [part]
    assert command[:2] == ["gtn", "fit"], shlex.join(command)
    model = instantiate(*command[2:]).model
    for name, value in values.items():
        if name.startswith(("model.teacher.", "model.inner_optimizer.")):
            _, part, _, argument = name.split(".")
            assert getattr(getattr(model, part), argument) == value["value"]


def test_sweep_steers_by_a_name_that_is_logged() -> None:
    for sweep in SWEEPS:
        assert yaml.safe_load(sweep.read_text())["metric"] == {"name": "val/accuracy", "goal": "maximize"}
