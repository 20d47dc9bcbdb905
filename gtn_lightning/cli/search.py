"""``gtn search``: a search from a recipe."""

from jsonargparse import ArgumentError, ArgumentParser
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning import seed_everything

from gtn_lightning.cli.messages import check_arguments, check_values, explained, reject_nulls
from gtn_lightning.cli.recipes import CommandLine
from gtn_lightning.cli.trust import Policy, ignore_files
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
        check_values(values)
        check_arguments(values)
        reject_nulls(values, {"": Search})
        made = parser.instantiate(parsed)
    except RecipeError:
        raise
    except (ArgumentError, OmegaConfBaseException, ValueError, TypeError) as error:
        told: BaseException | None = error
        while told is not None:  # what a component refuses stands behind what the parser says of it
            if isinstance(told, RecipeError):
                raise told from error
            told = told.__cause__ or told.__context__
        keys = [action.dest for action in parser._actions]
        raise RecipeError(explained(str(getattr(error, "message", None) or error), keys, line.given())) from error
    options = {key: value for key, value in made.items() if key not in ("config", "extends")}
    chosen = Search(**options)  # which refuses seeds that are none
    seed_everything(options["seed"], verbose=False)
    chosen.run()
