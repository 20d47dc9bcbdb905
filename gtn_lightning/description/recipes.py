"""Descriptions in the form of recipes, where annotations and not ``$kinds`` say of what kind a value is."""

from collections.abc import Iterator, Mapping
from typing import Any

from gtn_lightning.description.kinds import kind_of


def as_recipe(description: Any) -> Any:
    """Return a description in the form of recipes, where an argument's annotation gives the kind of its value."""
    if isinstance(description, list):
        return [as_recipe(item) for item in description]
    if not isinstance(description, Mapping):
        return description
    kind = kind_of(description)
    if kind is None:
        return {key: as_recipe(value) for key, value in description.items()}
    content = description[kind]
    if kind == "$dict":
        return {tuple(key) if isinstance(key, list) else key: value for key, value in as_recipe(content)}
    if kind == "$float":
        return float(content)
    if kind == "$torch":
        return f"torch.{content}"
    if kind == "$range":
        return str(range(*content))
    return as_recipe(content)


def changed_kinds(written: Any, again: Any, place: str) -> Iterator[str]:
    """Yield the places where a recipe changes the kind of a value, though not its text.

    Args:
        written: a description.
        again: the description of the component that was made from its recipe.
        place: the place of both, for messages.
    """
    written, again = (
        one[kind] if isinstance(one, Mapping) and (kind := kind_of(one)) in ("$tuple", "$list") else one
        for one in (written, again)
    )
    if isinstance(written, list) and isinstance(again, list):
        for number, pair in enumerate(zip(written, again, strict=False)):
            yield from changed_kinds(*pair, f"{place}[{number}]")
    elif all(isinstance(one, Mapping) and (kind_of(one) is None) for one in (written, again)):
        for key in written.keys() & again.keys():
            yield from changed_kinds(written[key], again[key], f"{place}.{key}")
    elif written != again and as_recipe(written) == as_recipe(again):
        yield place
