"""What holds for every test."""

import os
from collections import Counter
from collections.abc import Iterator

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files first that take longest, so that no worker is left alone with one at the end; skip long tests."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
    if "GTN_TEST_LONG" not in os.environ:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes half a minute: GTN_TEST_LONG=1 make test runs it"))


@pytest.fixture(scope="session", autouse=True)
def _own_state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is remembered of one's own files out of the home folder, and no baselines between tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GTN_BASELINES", "")
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def double() -> Iterator[None]:
    """Make new tensors of numbers in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
