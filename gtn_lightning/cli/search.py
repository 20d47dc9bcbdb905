"""``gtn search``: a search from a recipe."""

from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning import seed_everything

from gtn_lightning.cli.faults import Section
from gtn_lightning.cli.messages import causes, explained
from gtn_lightning.cli.parsed_recipe import check_recipe
from gtn_lightning.cli.policy import Policy
from gtn_lightning.cli.recipes import CommandLine
from gtn_lightning.cli.upstream_privates import ignore_files
from gtn_lightning.errors import RecipeError


def search(line: CommandLine, policy: Policy) -> None:
    """Run a search.

    Args:
        line: the command line.
        policy: what its recipes may name.

    Raises:
        RecipeError: the recipe cannot be used, or Optuna is not installed.
    """
    try:
        from gtn_lightning.nas.search import Search
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise RecipeError("gtn search needs Optuna: pip install 'gtn-lightning[search]'") from error
    parser = ArgumentParser(
        prog="gtn search", description=Search.__doc__, exit_on_error=False, parser_mode="omegaconf+", allow_abbrev=False
    )
    parser.add_argument("--config", "-c", action="config", help="A recipe: the name of a packaged one, or a path.")
    parser.add_argument("--extends", type=str | None, default=None, help="In a recipe: the recipe that it changes.")
    parser.add_class_arguments(Search)
    try:
        if policy.classes is not None:
            ignore_files(parser)
        parsed = parser.parse_args(line.arguments(inline=policy.classes is not None)[1:])
        values = parsed.as_dict()
        policy.check(values)
        check_recipe(values, {"": Search})
        made = parser.instantiate(parsed)
    except RecipeError:
        raise
    except (ArgumentError, OmegaConfBaseException, ValueError, TypeError) as error:
        for each in causes(error):  # a component's error is the cause of the parser's
            if isinstance(each, RecipeError):
                raise each from error
        keys = Section.of(Search)
        others = dict.fromkeys(("config", "extends", "help", "print_config"), Any)
        root = Section({**keys.kinds, **others}, keys.required)
        raise RecipeError(explained(error, line.given(), root)) from error
    options = {key: value for key, value in made.items() if key not in ("config", "extends")}
    chosen = Search(**options)  # which refuses seeds that are none
    seed_everything(options["seed"], verbose=False)
    chosen.run()
