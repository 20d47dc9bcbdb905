"""Where a recipe is wrong, found in the recipe as plain data. What the command line prints of it is in test_app.py."""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from gtn_lightning.cli.faults import Section, find_fault, merged
from gtn_lightning.cli.upstream_privates import imports_limited_to


class Engine:
    def __init__(self, power: int, fuel: Literal["gas", "air"] = "gas", parts: "dict[str, Engine] | None" = None):
        pass


class Turbo(Engine):
    def __init__(self, boost: float = 1.0, **options: Any):
        super().__init__(**options)


class Wheel:
    def __init__(self, size: float = 1.0) -> None:
        pass


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass
class Trip:
    length: int
    stops: Sequence[int] = ()


class Car:
    def __init__(
        self,
        engine: Engine,
        trip: Trip,
        wheels: list[Wheel] | Wheel | bool | None = None,
        color: Color = Color.RED,
        seats: int | float = 4,
        size: tuple[int, int] = (1, 2),
        make: Callable[[int], Engine] | None = None,
        folder: Path | None = None,
        kind: type[Wheel] = Wheel,
        notes: Any = None,
    ) -> None:
        pass


HERE = __name__
ROOT = Section({"car": Section.of(Car), "name": str, "data": Wheel})
CAR: dict[str, Any] = {"engine": {"class_path": "Engine", "init_args": {"power": 3}}, "trip": {"length": 2}}


def fault(*layers: Any) -> str:
    """What is wrong, as one text; empty if nothing is."""
    found = find_fault(layers, ROOT)
    return "" if found is None else f"{found.key}: {found.reason}"


def car(**arguments: Any) -> dict[str, Any]:
    return {"car": {**CAR, **arguments}}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"engine": f"{HERE}.Turbo", "wheels": True},
        {"engine": {"class_path": "Turbo", "init_args": {"power": 3, "boost": 2}}},
        {"wheels": [{"class_path": "Wheel"}, "Wheel"]},
        {"wheels": "[{class_path: Wheel, init_args: {size: 2}}]"},
        {"color": "BLUE", "seats": "4", "size": [3, 4], "folder": "a/b", "kind": f"{HERE}.Wheel", "notes": {"a": [1]}},
        {"make": "Engine", "seats": None},
        {"make": {"class_path": "Engine", "init_args": {"fuel": "air"}}},
        {"seats": "${.size}", "engine": {"class_path": "Engine", "init_args": {"power": "${car.seats}"}}},
    ],
)
def test_nothing_is_found_in_a_recipe_that_is_right(arguments: dict[str, Any]) -> None:
    given = car(**arguments)
    if arguments.get("engine") == f"{HERE}.Turbo":
        given = {"car": {**given["car"], "engine": {"class_path": f"{HERE}.Turbo", "init_args": {"power": 1}}}}
    assert fault(given) == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # keys
        ({"engin": 1}, "car.engin: there is no such key; did you mean car.engine?"),
        ({"trip": {"length": 2, "lenght": 2}}, "car.trip.lenght: there is no such key; did you mean car.trip.length?"),
        (
            {"engine": {"class_path": "Engine", "init_args": {"power": 1, "fule": "gas"}}},
            "car.engine.init_args.fule: Engine takes no 'fule'; did you mean fuel?",
        ),
        (
            {"engine": {"class_path": "Turbo", "init_args": {"power": 1, "x": 1}}},
            "car.engine.init_args.x: Turbo takes no 'x': give one of boost, power, fuel, parts",
        ),
        (
            {"engine": {"class_path": "Engine", "power": 1}},
            "car.engine.power: expected class_path and init_args alone; move it below init_args",
        ),
        # what is missing
        ({"engine": "Engine"}, "car.engine.init_args.power: required by Engine and not given; add it to the recipe"),
        ({"trip": {}}, "car.trip.length: required and not given; add it to the recipe"),
        (
            {"engine": {"class_path": "Engine", "init_args": {"power": 1, "parts": {"a": {"class_path": "Engine"}}}}},
            "car.engine.init_args.parts.a.init_args.power: required by Engine and not given; add it to the recipe",
        ),
        # values
        ({"seats": "four"}, "car.seats: expected int or float, got 'four'; correct the value"),
        ({"color": "GREEN"}, "car.color: expected RED or BLUE, got 'GREEN'; correct the value"),
        ({"size": [1]}, "car.size: expected list of 2, got [1]; correct the value"),
        ({"size": [1, "x"]}, "car.size.1: expected int, got 'x'; correct the value"),
        ({"trip": {"length": 1, "stops": [1, "a"]}}, "car.trip.stops.1: expected int, got 'a'; correct the value"),
        ({"trip": [1]}, "car.trip: expected mapping, got [1]; correct the value"),
        (
            {"engine": {"class_path": "Engine", "init_args": {"power": 1, "fuel": "oil"}}},
            "car.engine.init_args.fuel: expected gas or air, got 'oil'; correct the value",
        ),
        (
            {"engine": {"class_path": "Engine", "init_args": [1]}},
            "car.engine.init_args: expected mapping, got [1]; correct the value",
        ),
        ({"size": [1, None]}, "car.size.1: expected int, got null; correct the value"),
        ({"seats": True}, "car.seats: expected int or float, got true; correct the value"),
        ({"engine": {"class_path": "Engine", "init_args": {"power": None}}}, "car.engine.init_args.power: required by"),
        ({"engine": {"class_path": "Engine", "init_args": 3}}, "car.engine.init_args: expected mapping, got 3"),
        ({"engine": {"class_path": ""}}, "car.engine: expected a class by name, or class_path and init_args"),
        ({"notes": [1], "seats": "${car.notes}"}, "car.seats: expected int or float, got [1]; correct the value"),
        (
            {"seats": "${car.engine.init_args.power}", "engine": {"class_path": "Engine", "init_args": {"power": "x"}}},
            "car.engine.init_args.power: expected int, got 'x'",
        ),
        # classes
        ({"engine": "Engnie"}, "car.engine: there is no class Engnie; did you mean Engine?"),
        (
            {"engine": "Xyz"},
            "car.engine: there is no class Xyz; give the dotted path of one that can be imported",
        ),
        ({"engine": f"{HERE}.Wheel"}, f"car.engine: {HERE}.Wheel is not a Engine; name a class that is one"),
        ({"engine": 3}, "car.engine: expected a class by name, or class_path and init_args; correct the value"),
        (
            {"engine": "nowhere.Engine"},
            "car.engine: No module named 'nowhere'; correct the class path, or put its file into this folder or on "
            "PYTHONPATH",
        ),
        ({"make": "Wheel"}, "car.make: there is no class Wheel; give the dotted path of one that can be imported"),
        ({"make": {"class_path": "Engine", "init_args": {"power": 1}}}, "car.make.init_args.power: Engine takes no"),
        # the item that is meant
        ({"wheels": ["Wheel", "Whele"]}, "car.wheels.1: there is no class Whele; did you mean Wheel?"),
        (
            {"wheels": [{"class_path": "Wheel"}, {"class_path": "Wheel", "init_args": {"size": "big"}}]},
            "car.wheels.1.init_args.size: expected float, got 'big'; correct the value",
        ),
        ({"wheels": "Whele"}, "car.wheels: there is no class Whele; did you mean Wheel?"),
        ({"wheels": "yes please"}, "car.wheels: expected list or bool, got 'yes please'; correct the value"),
    ],
)
def test_the_fault_is_found(arguments: dict[str, Any], expected: str) -> None:
    assert fault(car(**arguments)).startswith(expected)


def test_a_part_that_is_missing_as_a_whole() -> None:
    assert fault({"name": "x"}).startswith("car.engine, car.trip: required and not given")
    assert fault({"car": {"trip": {"length": 1}}}).startswith("car.engine: required and not given")


def test_a_key_of_another_section_is_suggested() -> None:
    assert fault(car(), {"seats": 3}) == "seats: there is no such key; did you mean car.seats?"
    assert fault(car(), {"zzz": 3}).startswith("zzz: there is no such key; correct it, or see all")


def test_what_a_weaker_layer_says_is_looked_at_too() -> None:
    assert (
        fault(car(seats="a"), {"car": {"seats": 3}}) == "car.seats: expected int or float, got 'a'; correct the value"
    )
    assert fault(car(seats="a"), {"car": {"seats": "b"}}).endswith("got 'b'; correct the value")


def test_a_strangers_class_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "imported"
    (tmp_path / "evil_engine.py").write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()\nclass Evil: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with imports_limited_to([HERE]):
        for place in ({"engine": "evil_engine.Evil"}, {"make": "evil_engine.Evil"}, {"kind": "evil_engine.Evil"}):
            assert "evil_engine.Evil is code from elsewhere" in fault(car(**place))
        assert "is code from elsewhere" in fault(car(wheels="[{class_path: evil_engine.Evil}]"))
        assert fault(car()) == ""
    assert not mark.exists()


@pytest.mark.parametrize(
    ("layers", "whole"),
    [
        ([{"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}], {"a": {"b": 3, "c": 2}}),
        ([{"a": [1, 2]}, {"a": [3]}], {"a": [3]}),
        ([{"a": [1]}, {"a+": 2}, {"a+": [3, 4]}], {"a": [1, 2, 3, 4]}),
        ([{"a+": "X"}, {"a": {"b": 1}}], {"a": [{"class_path": "X", "init_args": {"b": 1}}]}),
        (
            [{"a": {"class_path": "X", "init_args": {"b": 1}}}, {"a": {"init_args": {"c": 2}}}],
            {"a": {"class_path": "X", "init_args": {"b": 1, "c": 2}}},
        ),
        ([{"a": "X"}, {"a": {"b": 2}}], {"a": {"class_path": "X", "init_args": {"b": 2}}}),
        ([{"a": {"class_path": "X"}}, {"a": "null"}], {"a": "null"}),
        ([{"a": {"b": 1}}, {"a": None}], {"a": None}),
    ],
)
def test_layers_are_merged_as_the_parser_does(layers: list[Any], whole: Any) -> None:
    result: Any = {}
    for layer in layers:
        result = merged(result, layer)
    assert result == whole


def test_a_class_that_replaces_another_keeps_the_arguments_that_it_has() -> None:
    below = car(engine={"class_path": "Turbo", "init_args": {"boost": 1, "power": 2}})
    assert fault(below, {"car": {"engine": "Engine"}}) == ""
    assert fault(below, {"car": {"engine": {"class_path": "Engine", "init_args": {"boost": 3}}}}).startswith(
        "car.engine.init_args.boost: Engine takes no 'boost'"
    )
