"""Digits, read once."""

import pytest

from gtn_lightning.data import DigitsData


@pytest.fixture(scope="session")
def data() -> DigitsData:
    """The digits, ready for use."""
    data = DigitsData(32)
    data.prepare_data()
    data.setup()
    return data
