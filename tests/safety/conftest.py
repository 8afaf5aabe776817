"""What these tests write need not outlive a power cut; most of their time would be waiting."""

import os

import pytest


@pytest.fixture(autouse=True)
def undurable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
