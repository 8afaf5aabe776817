"""A trap test is run on the right implementation, and on a wrong one that must fail it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def trap(*, right: Any, wrong: Any) -> Callable[[Callable[[Any], None]], Callable[[str], None]]:
    """Turn `check(implementation)` into a test that passes on `right` and fails on `wrong`."""

    def decorate(check: Callable[[Any], None]) -> Callable[[str], None]:
        @pytest.mark.parametrize("variant", ["right", "wrong"])
        def test(variant: str) -> None:
            if variant == "right":
                check(right)
            else:
                with pytest.raises(AssertionError):
                    check(wrong)

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate
