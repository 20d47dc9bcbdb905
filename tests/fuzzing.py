"""How many examples tests try that put input together at random.

``GTN_FUZZ=2000 pytest -k hostile`` tries more, and others each time; without it, the same few are tried.
"""

import os

from hypothesis import HealthCheck, settings

FUZZ = settings(
    max_examples=int(os.environ.get("GTN_FUZZ", "20")),
    derandomize="GTN_FUZZ" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
