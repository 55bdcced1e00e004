"""What GPUs offer: the memory that PyTorch can see, the share of it that the CUDA context takes, and their shape."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from galore.trainer.common.errors import UserError
from galore.trainer.common.format import GIB
from galore.trainer.common.printable import shortened
from galore.trainer.common.suggest import nearest, plain

SHOWN = 60  # letters of a name in a message


@dataclass(frozen=True)
class Card:
    """A GPU. Ranges cover drivers and settings: newer drivers keep more, ECC and a display may take some."""

    name: str  # as the driver says it
    key: str
    usable_low: int  # bytes of total_memory: the "total capacity" of PyTorch's out-of-memory message, on Linux
    usable_high: int
    context_low: int  # bytes of the CUDA context with PyTorch's kernels loaded
    context_high: int
    capability: tuple[int, int]
    sms: int
    basis: str  # where the usable memory is known from
    assumed: str = ""  # why figures are for it, though nobody named it and a run here would use another device

    @property
    def note(self) -> str:
        """One sentence for whoever reads figures of a card that is assumed; empty of any other."""
        told = f"The figures below are for one {self.name}, since {self.assumed}; `--gpu` names another card."
        return told if self.assumed else ""


def _card(
    name: str,
    key: str,
    usable: tuple[float, float],
    capability: tuple[int, int],
    sms: int,
    basis: str,
    context: tuple[float, float] | None = None,
) -> Card:
    """A card from GiB; without a measured `context`, one is estimated."""
    low, high = (round(gib * GIB) for gib in usable)
    least, most = (round(gib * GIB) for gib in context) if context else context_of(sms)
    return Card(name, key, low, high, least, most, capability, sms, basis)


def context_of(sms: int) -> tuple[int, int]:
    """Bounds of the CUDA context, which grows with the multiprocessors: around the contexts of the cards measured."""
    return round((0.10 + 0.0018 * sms) * GIB), round((0.25 + 0.003 * sms) * GIB)


MESSAGES = "PyTorch error messages, Linux"
OLDER = "PyTorch error messages, Linux; low end derived for newer drivers"
SAME_SIZE = "PyTorch error messages, Linux, one of this card and more of cards like it"
NO_ECC = "PyTorch error messages of 48 GB cards without ECC; low end derived for newer drivers"
AS_3090 = "derived: nominal memory less what the RTX 3090 loses"
AS_4070 = "derived: nominal memory less what the RTX 4070 loses"
AS_ADA = "derived: nominal memory less what the RTX 4090 and 4070 lose"
ECC_OR_NOT = "PyTorch error messages of cards with ECC and without it"
AS_GEFORCE = "derived: what GeForce cards offer of their nominal memory"
SHARE = (0.955, 0.99)  # of the nominal memory, on GeForce cards
# measured on an H200 with driver 580, CUDA 13.0 and torch 2.11: 0.914 GiB, with block inputs in host memory 0.982
HOPPER_CONTEXT = (0.90, 1.00)


def _geforce(name: str, key: str, nominal: float, capability: tuple[int, int], sms: int) -> Card:
    """A card of which only published figures are known: `nominal` GB, and multiprocessors."""
    usable = (SHARE[0] * nominal, SHARE[1] * nominal)
    return _card(f"NVIDIA GeForce {name}", key, usable, capability, sms, AS_GEFORCE)


TURING, AMPERE, ADA, BLACKWELL = (7, 5), (8, 6), (8, 9), (12, 0)  # compute capabilities of GeForce cards

CARDS = (
    _card("NVIDIA GeForce RTX 3060", "rtx3060", (11.62, 11.76), (8, 6), 28, MESSAGES),
    _card("NVIDIA GeForce RTX 3070", "rtx3070", (7.64, 7.78), (8, 6), 46, OLDER, (0.18, 0.30)),
    _card("NVIDIA GeForce RTX 3080", "rtx3080", (9.62, 9.78), (8, 6), 68, MESSAGES),
    _card("NVIDIA GeForce RTX 3090", "rtx3090", (23.56, 23.70), (8, 6), 82, MESSAGES),
    _card("NVIDIA GeForce RTX 3090 Ti", "rtx3090ti", (23.54, 23.69), (8, 6), 84, AS_3090),
    _card("NVIDIA GeForce RTX 4060 Ti", "rtx4060ti-16g", (15.45, 15.57), (8, 9), 34, OLDER, (0.20, 0.35)),
    _card("NVIDIA GeForce RTX 4070", "rtx4070", (11.50, 11.66), (8, 9), 46, SAME_SIZE),
    _card("NVIDIA GeForce RTX 4070 Ti", "rtx4070ti", (11.50, 11.66), (8, 9), 60, AS_4070),
    _card("NVIDIA GeForce RTX 4070 Ti SUPER", "rtx4070ti-super", (15.49, 15.66), (8, 9), 66, AS_ADA),
    _card("NVIDIA GeForce RTX 4080", "rtx4080", (15.49, 15.66), (8, 9), 76, AS_ADA),
    _card("NVIDIA GeForce RTX 4080 SUPER", "rtx4080-super", (15.49, 15.66), (8, 9), 80, AS_ADA),
    _card("NVIDIA GeForce RTX 4090", "rtx4090", (23.51, 23.68), (8, 9), 128, MESSAGES, (0.43, 0.55)),
    _card("NVIDIA GeForce RTX 5070 Ti", "rtx5070ti", (15.45, 15.49), (12, 0), 70, "a CUDA program's report, Linux"),
    _card("NVIDIA GeForce RTX 5080", "rtx5080", (15.45, 15.49), (12, 0), 84, MESSAGES),
    _card("NVIDIA GeForce RTX 5090", "rtx5090", (31.36, 31.48), (12, 0), 170, MESSAGES, (0.50, 0.70)),
    _geforce("RTX 2060", "rtx2060", 6, TURING, 30),
    _geforce("RTX 2060 SUPER", "rtx2060-super", 8, TURING, 34),
    _geforce("RTX 2070", "rtx2070", 8, TURING, 36),
    _geforce("RTX 2070 SUPER", "rtx2070-super", 8, TURING, 40),
    _geforce("RTX 2080", "rtx2080", 8, TURING, 46),
    _geforce("RTX 2080 SUPER", "rtx2080-super", 8, TURING, 48),
    _geforce("RTX 2080 Ti", "rtx2080ti", 11, TURING, 68),
    _geforce("RTX 3060 Ti", "rtx3060ti", 8, AMPERE, 38),
    _geforce("RTX 3070 Ti", "rtx3070ti", 8, AMPERE, 48),
    _geforce("RTX 3080 Ti", "rtx3080ti", 12, AMPERE, 80),
    _geforce("RTX 3060 Laptop GPU", "rtx3060-laptop", 6, AMPERE, 30),
    _geforce("RTX 3070 Laptop GPU", "rtx3070-laptop", 8, AMPERE, 40),
    _geforce("RTX 3070 Ti Laptop GPU", "rtx3070ti-laptop", 8, AMPERE, 46),
    _geforce("RTX 3080 Laptop GPU", "rtx3080-laptop-8g", 8, AMPERE, 48),
    _geforce("RTX 3080 Laptop GPU", "rtx3080-laptop-16g", 16, AMPERE, 48),
    _geforce("RTX 3080 Ti Laptop GPU", "rtx3080ti-laptop", 16, AMPERE, 58),
    _geforce("RTX 4060", "rtx4060", 8, ADA, 24),
    _geforce("RTX 4060 Ti", "rtx4060ti-8g", 8, ADA, 34),
    _geforce("RTX 4070 SUPER", "rtx4070-super", 12, ADA, 56),
    _geforce("RTX 4050 Laptop GPU", "rtx4050-laptop", 6, ADA, 20),
    _geforce("RTX 4060 Laptop GPU", "rtx4060-laptop", 8, ADA, 24),
    _geforce("RTX 4070 Laptop GPU", "rtx4070-laptop", 8, ADA, 36),
    _geforce("RTX 4080 Laptop GPU", "rtx4080-laptop", 12, ADA, 58),
    _geforce("RTX 4090 Laptop GPU", "rtx4090-laptop", 16, ADA, 76),
    _geforce("RTX 5060", "rtx5060", 8, BLACKWELL, 30),
    _geforce("RTX 5060 Ti", "rtx5060ti-8g", 8, BLACKWELL, 36),
    _geforce("RTX 5060 Ti", "rtx5060ti-16g", 16, BLACKWELL, 36),
    _geforce("RTX 5070", "rtx5070", 12, BLACKWELL, 48),
    _geforce("RTX 5060 Laptop GPU", "rtx5060-laptop", 8, BLACKWELL, 26),
    _geforce("RTX 5070 Laptop GPU", "rtx5070-laptop", 8, BLACKWELL, 36),
    _geforce("RTX 5070 Ti Laptop GPU", "rtx5070ti-laptop", 12, BLACKWELL, 46),
    _geforce("RTX 5080 Laptop GPU", "rtx5080-laptop", 16, BLACKWELL, 60),
    _geforce("RTX 5090 Laptop GPU", "rtx5090-laptop", 24, BLACKWELL, 82),
    _card("Tesla T4", "t4", (14.56, 14.76), (7, 5), 40, MESSAGES),
    _card("Tesla V100-SXM2-16GB", "v100-16g", (15.70, 15.79), (7, 0), 80, OLDER),
    _card("NVIDIA A10", "a10", (21.98, 22.20), (8, 6), 72, SAME_SIZE),
    _card("NVIDIA A10G", "a10g", (21.98, 22.20), (8, 6), 80, SAME_SIZE),
    _card("NVIDIA A100-SXM4-40GB", "a100-40g", (39.38, 39.59), (8, 0), 108, MESSAGES, (0.42, 0.60)),
    _card("NVIDIA A100-SXM4-80GB", "a100-80g", (79.14, 79.25), (8, 0), 108, MESSAGES, (0.42, 0.60)),
    _card("NVIDIA RTX A6000", "a6000", (47.40, 47.54), (8, 6), 84, NO_ECC),
    _card("NVIDIA RTX 6000 Ada Generation", "rtx6000-ada", (44.34, 47.54), (8, 9), 142, ECC_OR_NOT),
    _card("NVIDIA L4", "l4", (21.95, 22.17), (8, 9), 58, MESSAGES),
    _card("NVIDIA L40S", "l40s", (44.34, 44.53), (8, 9), 142, MESSAGES, (0.42, 0.65)),
    _card("NVIDIA H100 80GB HBM3", "h100-80g", (79.10, 79.22), (9, 0), 132, MESSAGES, HOPPER_CONTEXT),
    _card("NVIDIA H200", "h200", (139.72, 139.81), (9, 0), 132, MESSAGES, HOPPER_CONTEXT),
)
ALIASES = {"a100pcie40gb": "a100-40g", "a10080gbpcie": "a100-80g", "h100": "h100-80g"}
TWO_SIZES = {"rtx3080laptopgpu", "rtx4060ti", "rtx5060ti"}  # the driver has one name for cards with 8 and with 16 GB
DEFAULT = "rtx4090"
LARGEST = 100_000  # GB; no card has a hundredth of it
SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([gm])i?b?", re.IGNORECASE)


def card(name: str) -> Card:
    """The card called `name`: its key, the driver's name or a part of it, or its memory, such as "24GB" or "24576MB".

    Memory is what is printed on the box; as nvidia-smi counts, 1 GB has 1024 MB.

    Raises:
        UserError: no such card is known.
    """
    size = SIZE.fullmatch(name.strip())
    nominal = float(size[1]) / (1024 if size[2].lower() == "m" else 1) if size else 0.0
    if 1 <= nominal <= LARGEST:
        return _nameless(nominal)
    found = KNOWN.get(_short(name))
    if found is None:
        raise _unknown(name)
    return found


def card_or_default(name: str | None, device: str = "auto") -> Card:
    """The card called `name`; without one the GPU that is here, or an RTX 4090.

    Args:
        device: `train.device` of the recipe; a card that nobody named and that would not carry it out is `assumed`.

    Raises:
        UserError: no such card is known.
    """
    if name is not None:
        return card(name)
    here = attached()
    why = "the recipe says train.device: cpu" if device == "cpu" else "" if here else "torch finds no GPU here"
    return replace(here or card(DEFAULT), assumed=why)


def attached() -> Card | None:
    """The GPU that PyTorch would use here, with the memory that this process may take of it; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    here = torch.cuda.get_device_properties(torch.cuda.current_device())
    known = KNOWN.get(_short(here.name))
    context = (known.context_low, known.context_high) if known else context_of(here.multi_processor_count)
    low, high = _usable(here.total_memory, torch.cuda.get_per_process_memory_fraction(), context)
    return Card(
        name=here.name,
        key=known.key if known else _short(here.name),
        usable_low=low,
        usable_high=high,
        context_low=context[0],
        context_high=context[1],
        capability=(here.major, here.minor),
        sms=here.multi_processor_count,
        basis="the card itself",
    )


def _usable(total: int, fraction: float, context: tuple[int, int]) -> tuple[int, int]:
    """Bounds on bytes of a card of `total`; a share set for the process limits its allocator, context apart."""
    if fraction >= 1.0:
        return total, total
    return min(total, int(fraction * total) + context[0]), min(total, int(fraction * total) + context[1])


def _short(name: str) -> str:
    return plain(name).removeprefix("nvidia").removeprefix("geforce").removeprefix("tesla")


def _spellings(card: Card) -> Iterator[str]:
    key = plain(card.key)
    keys = (key, f"{key}b") if re.search(r"-\d+g$", card.key) else (key,)
    for each in keys:
        yield from (each, each.removeprefix("rtx"))
    if _short(card.name) not in TWO_SIZES:
        yield _short(card.name)


KNOWN = {spelling: card for card in CARDS for spelling in _spellings(card)}
KNOWN |= {alias: KNOWN[plain(key)] for alias, key in ALIASES.items()}


def _nameless(nominal: float) -> Card:
    """A GeForce card of `nominal` GB; the shape is the RTX 4090's, the context any GeForce card's."""
    low, high = (round(share * nominal * GIB) for share in SHARE)
    alike = [card for card in CARDS if "GeForce" in card.name]
    contexts = (min(card.context_low for card in alike), max(card.context_high for card in alike))
    basis = f"{AS_GEFORCE}; with ECC, as in data centers, it is 8 % less"
    return Card(f"a GPU with {nominal:g} GB", f"{nominal:g}gb", low, high, *contexts, (8, 9), 128, basis)


def _holding(word: str, keys: list[str]) -> list[str]:
    """The keys that have the letters of `word` in this order, the shortest first: rtx4090 for rtx49."""
    letters = re.compile(".*".join(map(re.escape, word)))
    return sorted((key for key in keys if word and letters.match(plain(key))), key=len)


def _unknown(name: str) -> UserError:
    keys = [card.key for card in CARDS]
    word = _short(name)
    close = [each.key for each in CARDS if word == _short(each.name)]
    close += [key for key in keys if word and plain(key).removeprefix("rtx").startswith(word.removeprefix("rtx"))]
    close = list(dict.fromkeys(close))
    close = (close or nearest(word, keys) or nearest(f"rtx{word}", keys) or _holding(word, keys))[:3]
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    if re.fullmatch(r"\d{1,3}(\.\d+)?", name.strip()) and float(name) >= 1:
        meant = f"did you mean {name.strip()}GB? " + (f"or {' or '.join(close)}? " if close else "")
    return UserError(
        f'no GPU called "{shortened(name, SHOWN)}" is known',
        where="--gpu",
        fix=f'{meant}known are {", ".join(keys)}, or say how much memory it has, with its unit, such as "24GB"',
    )
