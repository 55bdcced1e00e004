"""Without a network the hub's libraries are told so; with one, or where nobody can know, they are left alone."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from huggingface_hub import constants

from galore.trainer.machine import offline

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
Lookups = list[str]


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[bool, Lookups]]:
    """Calls `spare_retries` where the first so many look-ups fail; whether it went offline, and what was looked up."""
    monkeypatch.setattr(offline, "SECOND_TRY", 0.0)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)

    def call(failures: int) -> tuple[bool, Lookups]:
        asked: Lookups = []

        def getaddrinfo(host: str, *_: Any) -> list[Any]:
            asked.append(host)
            if len(asked) <= failures:
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            return []

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        offline.spare_retries.cache_clear()
        offline.spare_retries()
        return constants.HF_HUB_OFFLINE, asked

    return call


def test_no_network(look: Callable[..., tuple[bool, Lookups]], capfd: pytest.CaptureFixture[str]) -> None:
    went_offline, asked = look(failures=2)
    assert went_offline
    assert asked == ["huggingface.co"] * 2
    assert "huggingface.co does not resolve" in capfd.readouterr().err


@pytest.mark.parametrize("failures", [0, 1])
def test_a_network_that_may_stumble_once(
    look: Callable[..., tuple[bool, Lookups]], failures: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert look(failures) == (False, ["huggingface.co"] * (failures + 1))
    assert capfd.readouterr().err == ""


def test_a_proxy_resolves_names_itself(
    look: Callable[..., tuple[bool, Lookups]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert look(failures=9) == (False, [])


def test_what_the_user_set_needs_no_look(
    look: Callable[..., tuple[bool, Lookups]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert look(failures=9) == (True, [])


def test_another_hub_is_looked_up_instead(
    look: Callable[..., tuple[bool, Lookups]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example:8080/mirror")
    assert look(failures=0) == (False, ["hub.example"])
