"""For each refused pair, the composition that would be wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

SHOWN: dict[frozenset[str], Callable[[], None]] = {}


@pytest.mark.parametrize("pair", sorted(map(sorted, SHOWN)))
def test_the_composition_would_be_wrong(pair: list[str]) -> None:
    SHOWN[frozenset(pair)]()
