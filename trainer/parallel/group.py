"""The processes that torchrun started, as one group: what they sum, copy and agree on, with its bytes counted."""

from __future__ import annotations

import json
import math
import os
import re
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from galore.kernels.storage.rounding import mix
from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.machine.agent import leave_it_to_the_watch, watch_agent
from galore.trainer.machine.process import processes
from galore.trainer.machine.signals import Request
from galore.trainer.parallel.heartbeat import Heartbeat
from galore.trainer.recipe.schema.recipe import Recipe

# what torch before 2.13 calls otherwise, and from then on warns of
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
NAME = 16  # bytes of a wish to stop
PATIENCE = timedelta(hours=2)  # one rank may tokenize or save while the others wait; a dead one is noticed at once
MEETING = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # what processes find each other by, beside how many they are
# what gloo says of a connection; what a collective was given wrongly is told without these words
LOST = re.compile(r"connect|peer|socket|pipe|network|remote|transport|time(d |-)?out|abort|closed", re.IGNORECASE)
ANSWER = timedelta(seconds=45)  # within which torchrun's store answers, which was there before this process


class Rows(Protocol):
    """A batch that gives out some of its rows."""

    def __len__(self) -> int: ...

    def rows(self, start: int, stop: int) -> Self: ...


class Wish(Protocol):
    """A wish to stop, a signal's or anybody's."""

    @property
    def name(self) -> str: ...


Shared = TypeVar("Shared", bound=Rows)


@dataclass
class Group:
    """All ranks; see `trainer.optim.ranks.Ranks`.

    `sharded`: whether each holds a part of the weights alone, so that all of them take part in every forward.
    `sent` counts the bytes that went into each kind of collective, `waited` the seconds that this rank stood still for
    them: on a card, where a queue waits instead, hardly any. `heart` beats while a run is carried out.
    """

    rank: int
    size: int
    sharded: bool = False
    sent: Counter[str] = field(default_factory=Counter)
    waited: float = 0.0
    heart: Heartbeat | None = field(default=None, repr=False, compare=False)

    @contextmanager
    def beating(self, timeout: float | None) -> Iterator[None]:
        """A context in which this rank gives signs of life, and ends `timeout` seconds after another's last, if any."""
        if timeout is None:
            yield
            return
        self.heart = Heartbeat(self.rank, self.size, timeout)
        self.heart.start()
        try:
            yield
        finally:
            self.heart.leave()

    @property
    def is_first(self) -> bool:
        """Whether this rank writes what a run leaves."""
        return self.rank == 0

    def start_sum(self, tensor: Tensor) -> Callable[[], None]:
        """Begin to replace a contiguous tensor by its sum over the ranks, the same bits on all of them.

        Returns:
            What waits for that.
        """
        with reaching(self):
            work = dist.all_reduce(tensor, async_op=True)
        self.sent["sum"] += tensor.nbytes

        def wait() -> None:
            with reaching(self):
                work.wait()

        return wait

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        """Whether each flag is set on any rank."""
        found = torch.tensor(flags, dtype=torch.float32, device=_device())
        if flags:
            self.start_sum(found)()
        return [bool(count) for count in found.tolist()]

    def copy_first_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by that of rank 0."""
        for each in tensors:
            with reaching(self):
                dist.broadcast(each.detach().view(-1).view(torch.uint8), 0)  # gloo knows few types of numbers
            self.sent["copy"] += each.nbytes

    def scatter_sum(self, rows: Tensor) -> Tensor:
        """This rank's row (k,) of the sum of `rows` (size, k) over the ranks."""
        own = torch.empty_like(rows[0])
        with reaching(self):
            reduce_scatter(own, rows.view(-1))
        self.sent["scatter"] += rows.nbytes
        return own

    def joined(self, own: Tensor) -> Tensor:
        """Every rank's `own` (k,), as (size, k)."""
        every = own.new_empty(self.size * own.numel())
        with reaching(self):
            all_gather(every, own)
        self.sent["gather"] += own.nbytes
        return every.view(self.size, -1)

    def are_equal(self, number: float) -> bool:
        """Whether all ranks have the same bits of a number."""
        return len(set(self.gathered(struct.pack("<d", number)))) == 1

    @property
    def backend(self) -> str:
        """Which library carries it: gloo or nccl."""
        return str(dist.get_backend())

    def total(self, number: float) -> float:
        """The sum of a number over the ranks, rounded once."""
        return math.fsum(struct.unpack("<d", each)[0] for each in self.gathered(struct.pack("<d", number)))

    def share(self, batch: Shared) -> Shared:
        """This rank's rows of a batch that all of them know: as many as any other's, but for one."""
        return batch.rows(len(batch) * self.rank // self.size, len(batch) * (self.rank + 1) // self.size)

    def first_of(self, wish: Wish | None) -> Wish | None:
        """The wish of the first rank that has one."""
        own = (wish.name if wish else "").encode()[:NAME].ljust(NAME, b"\0")
        found = next((each for each in self.gathered(own) if any(each)), None)
        return wish if found in (None, own) else Request(found.rstrip(b"\0").decode(errors="replace"))

    def seed_step(self, seed: int, step: int) -> None:
        """Let dropout draw other numbers on every rank, and the same ones where a step is taken again."""
        torch.manual_seed(mix(seed, step, self.rank))

    def from_first(self, document: Any = None) -> Any:
        """What rank 0 says, JSON, on all of them."""
        text = torch.frombuffer(bytearray(json.dumps(document).encode()), dtype=torch.uint8).to(_device())
        length = torch.tensor([len(text)], device=_device())
        with reaching(self):
            dist.broadcast(length, 0)
            if not self.is_first:
                text = torch.empty(int(length), dtype=torch.uint8, device=_device())
            dist.broadcast(text, 0)
        return json.loads(text.cpu().numpy().tobytes())

    def gathered(self, eights: bytes) -> list[bytes]:
        """What each rank has, a multiple of eight bytes."""
        own = torch.frombuffer(bytearray(eights), dtype=torch.int64).to(_device())
        every = [torch.empty_like(own) for _ in range(self.size)]
        with reaching(self):
            dist.all_gather(every, own)
        self.sent["small"] += own.nbytes
        return [each.cpu().numpy().tobytes() for each in every]


class RankLost(RunFailed):
    """Another process of the group is gone, or cannot be reached."""


class ToldElsewhere(UserError):  # noqa: N818 - it names an outcome
    """An error that rank 0 tells its reader: this process ends with the same exit code, and says nothing."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("told by rank 0")
        self.exit_code = exit_code


@contextmanager
def meeting(group: Group | None) -> Iterator[None]:
    """A context that all ranks of a sharded group leave together: an error that rank 0 meets, too, is left to it."""
    met: UserError | None = None
    try:
        yield
    except UserError as error:
        met = error
    codes = [0]
    if group is not None and group.sharded:
        own = struct.pack("<q", met.exit_code if met else 0)
        codes = [int.from_bytes(each, "little") for each in group.gathered(own)]
    if met is not None:
        raise ToldElsewhere(codes[0]) if codes[0] and group is not None and not group.is_first else met


@contextmanager
def reaching(group: Group) -> Iterator[None]:
    """What torch.distributed raises where a process is out of reach, as RankLost: its own words name lines of C++."""
    started = time.perf_counter()
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or LOST.search(str(error))):
            raise
        if group.heart is not None:  # what is whole is saved now, and that may take its time
            group.heart.leave()
        leave_it_to_the_watch()
        told = f"another of the {group.size} processes ended, or cannot be reached"
        raise RankLost(
            told,
            where=f"rank {group.rank}",
            fix="see what it said; torchrun --max-restarts=N starts all of them again, and --resume goes on",
        ) from error
    finally:
        group.waited += time.perf_counter() - started


def refuse_in_group(recipe: Recipe, group: Group | None) -> None:
    """Raise UserError for what processes cannot share, and for a group that the recipe asks for and is not there."""
    if group is None:
        if recipe.parallel.mode != "auto":
            whole = " and parallel.checkpoints: whole" if recipe.parallel.checkpoints == "parts" else ""
            fix = f"start it with torchrun --nproc-per-node=N -m galore train RECIPE, or set parallel.mode: auto{whole}"
            what = f"{recipe.parallel.mode} asks for several processes, and this is one"
            raise UserError(what, where="parallel.mode", fix=fix)
        return
    group.sharded = False
    if recipe.optim.update == "immediate":
        what = "immediate applies each gradient in the backward, before the processes could add theirs up"
        raise UserError(what, where="optim.update", fix="set optim.update: accumulate, or start one process")
    if recipe.train.stream_weights or recipe.optim.gradient_sums == "host":
        where = "train.stream_weights" if recipe.train.stream_weights else "optim.gradient_sums"
        what = "weights and gradient sums wait in the host memory of one process: several would each need all of it"
        raise UserError(what, where=where, fix="leave it out, or start one process")
    if recipe.train.global_batch_size < group.size:
        what = f"{recipe.train.global_batch_size} sequences cannot be shared by {group.size} processes"
        raise UserError(what, where="train.global_batch_size", fix="start fewer processes, or raise it")
    fewest, more = divmod(recipe.train.global_batch_size, group.size)
    sketched = recipe.optim.method == "galore" and recipe.optim.proj_type != "random"
    first = sketched and recipe.optim.effective_refresh == "first-micro-batch"
    if first and fewest < recipe.train.micro_batch_size:
        what = f"a refresh sees the first {recipe.train.micro_batch_size} sequences of a batch, and {group.size} processes have {fewest} each"
        fix = f"set train.micro_batch_size: {fewest}, another optim.refresh, or start fewer processes"
        raise UserError(what, where="optim.refresh", fix=fix)
    if recipe.parallel.mode == "fsdp" and more and fewest % recipe.train.micro_batch_size == 0:
        what = f"fsdp needs as many micro-batches on every process: {group.size} processes get {fewest} or {fewest + 1} sequences, {recipe.train.micro_batch_size} at a time"
        raise UserError(what, where="train.global_batch_size", fix=f"make it a multiple of {group.size}")


def require_same_weights(model: nn.Module, group: Group) -> None:
    """Raise RunFailed where the ranks begin with different weights; of sharded ones each had to have all, before."""
    if group.sharded:
        return
    total = sum(float(each.detach().sum(dtype=torch.float64)) for each in model.parameters())
    if not group.are_equal(total):
        what = "the ranks begin with different weights"
        raise RunFailed(what, where=f"rank {group.rank}", fix="give all machines the same versions, files and cards")


def join(device: str) -> Group | None:
    """The group of all processes that torchrun started; None for one that is alone. `device` as a recipe names it."""
    watch_agent()
    if processes() == 1:
        return None
    if absent := [name for name in MEETING if name not in os.environ]:
        what = f"says {processes()} processes, and {', '.join(absent)} {'are' if absent[1:] else 'is'} not set"
        raise UserError(what, where="environment variable WORLD_SIZE", fix="start galore with torchrun, or unset it")
    on_cuda = torch.cuda.is_available() and device != "cpu"
    if on_cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not dist.is_initialized():
        _require_store()
        dist.init_process_group("nccl" if on_cuda else "gloo", timeout=PATIENCE)
    return Group(dist.get_rank(), dist.get_world_size())


def _require_store() -> None:
    """Raise RankLost where the agent is gone that the processes meet by: torch would look for it for hours."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        dist.TCPStore(host, port, None, is_master=False, timeout=ANSWER)  # type: ignore[attr-defined]
    except RuntimeError as error:
        what = f"torchrun, which started this process, does not answer at {host}:{port}"
        raise RankLost(what, fix="start it again on all machines; --resume goes on") from error


def leave() -> None:
    """End the group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
