from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from galore.trainer.common.errors import UserError
from galore.trainer.common.format import GIB
from galore.trainer.common.printable import shortened
from galore.trainer.machine import cards
from galore.trainer.machine.cards import AS_GEFORCE, CARDS, ECC_OR_NOT, Card, attached, card, card_or_default
from galore.trainer.machine.gpus import GPUS


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("rtx4090", "rtx4090"),
        ("RTX 4090", "rtx4090"),
        ("nvidia geforce rtx 4090", "rtx4090"),
        ("4090", "rtx4090"),
        ("4070 Ti SUPER", "rtx4070ti-super"),
        ("RTX 4060 Ti 16GB", "rtx4060ti-16g"),
        ("a100-80g", "a100-80g"),
        ("A100-SXM4-80GB", "a100-80g"),
        ("NVIDIA A100 80GB PCIe", "a100-80g"),
        ("RTX A6000", "a6000"),
        ("h100", "h100-80g"),
        (" l4 ", "l4"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "rtx4090-laptop"),
        ("4070 laptop", "rtx4070-laptop"),
        ("RTX 4070 SUPER", "rtx4070-super"),
        ("2060", "rtx2060"),
        ("Tesla T4", "t4"),
        ("T4", "t4"),
        ("V100-SXM2-16GB", "v100-16g"),
        ("RTX 5060 Ti 8GB", "rtx5060ti-8g"),
    ],
)
def test_a_card_has_many_spellings(name: str, key: str) -> None:
    assert card(name).key == key


@pytest.mark.parametrize("each", CARDS, ids=lambda each: each.key)
def test_every_card_is_found_by_its_key_and_is_plausible(each: Card) -> None:
    assert card(each.key) is each
    most = 1.1 if each.capability == (9, 0) else 0.8
    assert 0.1 * GIB < each.context_low < each.context_high < most * GIB
    width = 1.08 if each.basis == ECC_OR_NOT else 1.04 if each.basis == AS_GEFORCE else 1.02
    assert 5 * GIB < each.usable_low < each.usable_high < width * each.usable_low
    assert each.capability >= (7, 0)
    assert each.basis


def test_a_card_that_nobody_named_says_why_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert card_or_default("rtx3090", "cpu").note == ""
    monkeypatch.setattr(cards, "attached", lambda: None)
    assert card_or_default(None).note == (
        "The figures below are for one NVIDIA GeForce RTX 4090, since torch finds no GPU here; `--gpu` names another card."
    )
    monkeypatch.setattr(cards, "attached", lambda: card("h200"))
    assert card_or_default(None, "cuda").note == ""
    assert "NVIDIA H200, since the recipe says train.device: cpu;" in card_or_default(None, "cpu").note


def test_keys_differ() -> None:
    assert len({each.key for each in CARDS}) == len(CARDS)


WITHOUT_A_PEAK = {"rtx3080", "a10", "a10g", "a6000", "rtx6000-ada", "t4", "v100-16g"}
WITH_A_PEAK = {each.key for each in CARDS if each.basis != AS_GEFORCE} - WITHOUT_A_PEAK


@pytest.mark.parametrize("each", [each for each in CARDS if each.key in WITH_A_PEAK], ids=lambda each: each.key)
def test_names_are_those_of_the_table_of_peaks(each: Card) -> None:
    """Where that table has the card: it names them as the driver does."""
    assert each.name.removeprefix("NVIDIA ").removeprefix("GeForce ") in GPUS


def test_the_rtx_4090() -> None:
    found = card("rtx4090")
    assert (found.name, found.capability, found.sms) == ("NVIDIA GeForce RTX 4090", (8, 9), 128)
    assert found.usable_low < 23.64 * GIB < found.usable_high
    assert found.context_low < 0.48 * GIB < found.context_high


@pytest.mark.parametrize("name", ["h200", "h100"])
def test_the_context_of_a_hopper_card_is_the_measured_one(name: str) -> None:
    """Of an H200: alone, and with block inputs in host memory."""
    found = card(name)
    assert found.context_low < 0.9141 * GIB < 0.9824 * GIB < found.context_high


@pytest.mark.parametrize(
    ("text", "key", "nominal"),
    [
        ("24GB", "24gb", 24),
        ("24g", "24gb", 24),
        ("16 GiB", "16gb", 16),
        ("1gb", "1gb", 1),
        ("12288MB", "12gb", 12),
        ("8192 MiB", "8gb", 8),
        ("1024m", "1gb", 1),
    ],
)
def test_a_size_is_a_nameless_card(text: str, key: str, nominal: int) -> None:
    found = card(text)
    assert (found.key, found.name) == (key, f"a GPU with {nominal} GB")
    assert 0.95 * nominal * GIB < found.usable_low < found.usable_high < nominal * GIB
    assert "derived" in found.basis
    assert (found.capability, found.sms) == ((8, 9), 128)
    assert found.context_high < card("h200").context_low


@pytest.mark.parametrize("known", [each for each in CARDS if "GeForce" in each.name], ids=lambda each: each.key)
def test_a_size_covers_the_geforce_cards_of_that_size(known: Card) -> None:
    sized = card(f"{math.ceil(known.usable_high / GIB)}GB")
    assert sized.usable_low <= known.usable_low
    assert known.usable_high <= sized.usable_high
    assert sized.context_low <= known.context_low
    assert known.context_high <= sized.context_high


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("rtx 4900", "did you mean rtx4090?"),
        ("RTX 4060 Ti", "did you mean rtx4060ti-16g or rtx4060ti-8g?"),
        ("RTX 3080 Laptop GPU", "did you mean rtx3080-laptop-8g or rtx3080-laptop-16g?"),
        ("24", "did you mean 24GB? "),
        (" 8", "did you mean 8GB? "),
        ("9" * 400 + "GB", "known are rtx3060,"),
        ("500MB", 'with its unit, such as "24GB"'),
        ("A100", "did you mean a100-40g or a100-80g?"),
        ("4091", "did you mean rtx4090?"),
        ("rtx49", "did you mean rtx4090 or "),
        ("0GB", "known are rtx3060,"),
        ("", "known are rtx3060,"),
        ("voodoo", 'or say how much memory it has, with its unit, such as "24GB"'),
    ],
)
def test_an_unknown_card_names_the_nearest_and_the_list(name: str, meant: str) -> None:
    with pytest.raises(UserError) as caught:
        card(name)
    assert caught.value.where == "--gpu"
    assert caught.value.what == f'no GPU called "{shortened(name, 60)}" is known'
    assert meant in caught.value.fix
    assert "h200" in caught.value.fix


def test_without_a_gpu_none_is_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert attached() is None


def _attach(monkeypatch: pytest.MonkeyPatch, name: str, sms: int, fraction: float = 1.0) -> Card:
    here = SimpleNamespace(name=name, total_memory=123456789, major=8, minor=9, multi_processor_count=sms)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda: fraction)
    monkeypatch.setattr(torch.cuda, "get_device_properties", {1: here}.__getitem__)
    found = attached()
    assert found is not None
    return found


def test_an_attached_card_has_the_memory_that_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    found, known = _attach(monkeypatch, "NVIDIA GeForce RTX 4090", 128), card("rtx4090")
    assert (found.usable_low, found.usable_high, found.capability, found.sms) == (123456789, 123456789, (8, 9), 128)
    assert (found.key, found.context_low, found.context_high) == ("rtx4090", known.context_low, known.context_high)


def test_a_process_that_may_take_a_part_has_that_and_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    known = card("rtx4090")
    monkeypatch.setattr(
        "galore.trainer.machine.cards.KNOWN", {"rtx4090": replace(known, context_low=10, context_high=20)}
    )
    found = _attach(monkeypatch, "NVIDIA GeForce RTX 4090", 128, fraction=0.5)
    assert (found.usable_low, found.usable_high) == (123456789 // 2 + 10, 123456789 // 2 + 20)


def test_an_attached_card_need_not_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _attach(monkeypatch, "NVIDIA GeForce RTX 4060 Ti", 34)
    assert (found.name, found.key) == ("NVIDIA GeForce RTX 4060 Ti", "rtx4060ti")
    assert found.context_low < 0.25 * GIB < found.context_high


def test_the_module_needs_no_torch() -> None:
    program = "import sys, galore.trainer.machine.cards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
