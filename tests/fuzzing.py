"""How many examples tests try that put input together at random.

``GTN_FUZZ=2000 pytest -k hostile -o faulthandler_timeout=0`` tries more, and others each time; without it, the same few
are tried.
"""

import os
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, settings

FUZZ = settings(
    max_examples=int(os.environ.get("GTN_FUZZ", "8")),
    derandomize="GTN_FUZZ" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def mutate(content: Any, path: Sequence[Any], way: str, value: Any) -> None:
    """Replace one thing in plain data, leave it out, or give it another name.

    Args:
        content: plain data, which is changed.
        path: the keys that lead to what is changed.
        way: ``replace``, ``leave out`` or ``rename``.
        value: what takes its place.
    """
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    if way == "replace":
        parent[path[-1]] = value
        return
    old = parent.pop(path[-1])
    if way == "rename" and isinstance(parent, dict):
        parent[f"{path[-1]}s"] = old
