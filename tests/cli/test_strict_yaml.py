"""YAML that is ambiguous, endless or beyond all sizes."""

from pathlib import Path

import pytest
import yaml

from gtn_lightning.cli.strict_yaml import dump_yaml, load_yaml, read_yaml
from gtn_lightning.errors import RecipeError

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
REFUSED = {
    "a: 1\nb: 2\na: 3": "line 3, column 1: the key 'a' stands here a second time",
    "a: {b: 1, b: 2}": "the key 'b' stands here a second time",
    "a: &a\n  b: *a": "an alias stands inside what it stands for",
    "&a [*a]": "an alias stands inside what it stands for",
    LAUGHS: "holds more than 100000 values",
    "a: &a {x: 1}\nb: &b {<<: [*a, *a], y: " + "[" * 60 + "]" * 60 + "}": "nested more than 50 levels deep",
    "[" * 1500 + "]" * 1500: "nested more than 50 levels deep",
    "a: 9223372036854775808": "has more than 64 bits",
    "a: " + "9" * 5000: "has more than 64 bits",
    "a: 0x10000000000000000": "has more than 64 bits",
    "? [1, 2]\n: 3": "expected a text or a number as a key",
    "a: !!python/object/apply:os.system ['true']": "could not determine a constructor",
    "a: [1, 2": "expected ',' or ']'",
    "a: \x00": "special characters are not allowed",
    "a: 1\n---\nb: 2": "but found another document",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text.encode())
    with pytest.raises(RecipeError, match=r"recipe\.yaml is not valid YAML") as caught:
        read_yaml(path)
    assert REFUSED[text] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_utf_8(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes("a: ä".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"is not valid YAML: .*utf-8"):
        read_yaml(tmp_path / "recipe.yaml")


def test_numbers_are_what_recipes_take_them_for() -> None:
    found = load_yaml("{a: 1e-3, b: 1., c: .5, d: .inf, e: 12, f: 2020-01-01, g: '1', h: yes, i: -9223372036854775807}")
    assert found == {"a": 0.001, "b": 1.0, "c": 0.5, "d": float("inf"), "e": 12} | {
        "f": "2020-01-01",
        "g": "1",
        "h": True,
        "i": -9223372036854775807,
    }


def test_merged_keys_may_be_given_again() -> None:
    assert load_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}")["b"] == {"x": 3, "y": 2}


@pytest.mark.parametrize("text", ["1e-3", "null", "yes", "a: b", "é", "\t", '"', "{x}", "", "- 1", "\u2028", "#"])
def test_a_text_that_is_written_is_read_as_a_text(text: str) -> None:
    content = {"a": [text, {text: text}], "b": 1e-5, "c": None}
    assert load_yaml(dump_yaml(content)) == content
    assert yaml.safe_load(dump_yaml(content))["a"] == content["a"]
    assert "\n" not in dump_yaml(content)
