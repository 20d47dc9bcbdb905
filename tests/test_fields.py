"""Fields: what they are, and what cannot be one."""

import pytest

from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Field, given


@pytest.mark.parametrize(
    ("field", "shape"),
    [
        (Field("real", (1, 28, 28)), (1, 28, 28)),
        (Field("real", ()), ()),
        (Field("classes", classes=10), ()),
        (Field("probabilities", classes=10), (10,)),
    ],
)
def test_the_shape_of_a_sample(field: Field, shape: tuple[int, ...]) -> None:
    assert field.sample_shape == shape


def test_a_field_from_a_file_is_the_same() -> None:
    assert Field("real", [13]) == Field("real", (13,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "words"}, "kind must be one of real, classes, probabilities, got 'words'"),
        ({"kind": "real", "shape": (3, 0)}, r"shape must consist of numbers of at least 1, got \[3, 0\]"),
        ({"kind": "real", "classes": 3}, "a field of kind real must have no classes, got 3"),
        ({"kind": "classes"}, "a field of kind classes must have a number of classes, got None"),
        ({"kind": "classes", "classes": 1}, "classes must be at least 2, got 1"),
        ({"kind": "classes", "classes": 3, "shape": (2,)}, r"a field of kind classes must have no shape, got \[2\]"),
    ],
)
def test_what_cannot_be_a_field(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Field(**arguments)  # type: ignore[arg-type]


def test_a_script_has_to_give_what_a_recipe_may_leave_out() -> None:
    assert given(0, "Full.steps") == 0
    with pytest.raises(RecipeError, match=r"^Full.steps must be given"):
        given(None, "Full.steps")
