"""docs/own-loop.md: its blocks run, and each row of its table has a test that shows what the row says."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from snippets import FENCE, ROOT
from torch import Tensor, nn

from galore import GaLoreAdamW
from galore.trainer.optim import galore_groups, hand_over_int8, project_in_backward, to_int8

PAGE = (ROOT / "docs/own-loop.md").read_text(encoding="utf-8")
BLOCKS = [text for language, text in FENCE.findall(PAGE) if language == "python"]
ROWS = [row.split(" | ")[0].removeprefix("| ") for row in re.findall(r"^\| .*", PAGE, re.M)[1:]]
STATEMENTS: dict[str, Callable[..., object]] = {}


def says(row: str) -> Callable[[Any], Any]:
    """What is decorated shows the row that begins so."""

    def kept(shown: Any) -> Any:
        STATEMENTS[row] = shown
        return shown

    return kept


class Mapped(nn.Sequential):
    """As Trainer calls it: keywords in, a loss first out."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        found = super().forward(x)
        return found if labels is None else {"loss": nn.functional.mse_loss(found, labels), "found": found}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return Mapped(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 12, bias=False))


def galore(net: nn.Module, targets: tuple[str, ...] = ("0", "2"), **options: Any) -> GaLoreAdamW:
    return GaLoreAdamW(galore_groups(net, 4, targets=targets), **{"lr": 1e-2, "update_proj_gap": 3, **options})


def batch(seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(8, 12, generator=torch.Generator().manual_seed(seed))
    return x, x.flip(0)


def backward(net: nn.Module, seed: int = 1, share: float = 1.0, rows: slice = slice(None)) -> None:
    x, y = batch(seed)
    (nn.functional.mse_loss(net(x[rows]), y[rows]) * share).backward()


def weights(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def after(net: nn.Module, forward: Any = None, **options: Any) -> Tensor:
    """The weights after three steps."""
    optimizer = galore(net, **options)
    for seed in range(3):
        backward(forward or net, seed)
        optimizer.step()
    return weights(net)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


NEEDS = {
    "torch": "torch",
    "ranks": "torch",
    "Trainer": "accelerate",
    "accelerate": "accelerate",
    "Lightning": "lightning",
}


@pytest.mark.parametrize(("index", "kind"), enumerate(NEEDS), ids=NEEDS)
def test_a_block_runs(index: int, kind: str) -> None:
    pytest.importorskip(NEEDS[kind], reason=f"{NEEDS[kind]} is not installed")
    model, rows = network(), [{"x": x, "labels": y} for x, y in zip(*batch(7), strict=True)]
    before = weights(model)
    given: dict[str, Any] = {
        "__name__": "block",
        "model": model,
        "batches": [batch(seed) for seed in range(4)],
        "torch": torch,
        "rows": rows,
    }
    exec(f"{BLOCKS[0].partition('groups =')[0] if index else ''}{BLOCKS[index]}", given)
    optimizer = given["optimizer"]
    assert isinstance(optimizer, GaLoreAdamW)
    assert optimizer.clock == {"torch": 4, "ranks": 4, "Trainer": 4}.get(kind, 2)
    assert optimizer.report is not None
    assert optimizer.report.grad_norm > 0
    assert not torch.equal(weights(model), before)
    if kind == "Trainer":
        assert given["trainer"].state.log_history[-1]["train_loss"] > 0
        assert [path.name for path in Path("out").iterdir()] == ["checkpoint-4"]
    if kind == "Lightning":
        assert given["trainer"].logged_metrics["grad_norm"] == pytest.approx(optimizer.report.grad_norm)


def test_every_block_is_run() -> None:
    assert len(BLOCKS) == len(NEEDS)


@says("`torch.nn.utils.clip_grad_norm_`")
def clipping() -> None:
    net, free = network(), network()
    optimizer, other = galore(net), galore(free)
    for each in (net, free):
        backward(each)
    assert all(p.grad is None for name, p in net.named_parameters() if name.endswith("weight"))
    nn.utils.clip_grad_norm_([p for name, p in net.named_parameters() if name.endswith("weight")], 1e-6)
    optimizer.step()
    other.step()
    assert torch.equal(weights(net), weights(free))
    clipped, called = network(), network()
    inside, outside = galore(clipped, max_grad_norm=1e-3), galore(called)
    for each in (clipped, called):
        backward(each)
    outside.clip_grad_norm_(1e-3)
    inside.step()
    outside.step()
    assert inside.report is not None
    assert inside.report.grad_scale < 0.1
    assert torch.equal(weights(clipped), weights(called))


@says("`model.zero_grad()`")
def zeroing() -> None:
    nets = [network() for _ in range(3)]
    optimizers = [galore(net) for net in nets]
    for net in nets[:2]:
        backward(net, seed=5)
    nets[0].zero_grad()
    optimizers[1].zero_grad()
    for net, optimizer in zip(nets, optimizers, strict=True):
        backward(net)
        optimizer.step()
    assert torch.equal(weights(nets[1]), weights(nets[2]))
    assert not torch.equal(weights(nets[0]), weights(nets[2]))


@says("micro-batches")
def accumulating() -> None:
    one, four = network(), network()
    for net, parts in ((one, 1), (four, 4)):
        optimizer = galore(net, proj_type="svd", eps=1e-3)
        for part in range(parts):
            backward(net, 1, 1 / parts, slice(part, None, parts))
        optimizer.step()
    torch.testing.assert_close(weights(one), weights(four), rtol=1e-5, atol=1e-6)


@says("`torch.autocast`")
def autocast() -> None:
    net = network()
    optimizer, losses = galore(net), []
    for _ in range(40):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.mse_loss(net(batch(1)[0]), batch(1)[1])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@says("`torch.amp.GradScaler`")
def scaling() -> None:
    net = network()
    optimizer, before = galore(net), weights(net)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(net(torch.ones(2, 12)).sum()).backward()
    with pytest.raises((AssertionError, RuntimeError)):
        scaler.step(optimizer)
    assert torch.equal(weights(net), before)
    optimizer.zero_grad()
    off = torch.amp.GradScaler("cpu", enabled=False)
    off.scale(net(torch.ones(2, 12)).sum()).backward()
    off.step(optimizer)
    assert not torch.equal(weights(net), before)
    moved = weights(net)
    (net(torch.ones(2, 12)).sum() * torch.inf).backward()
    optimizer.step()
    assert torch.equal(weights(net), moved)


@says("`torch.compile`")
def compiling() -> None:
    expected, net = after(network()), network()
    assert torch.equal(after(net, torch.compile(net, backend="aot_eager")), expected)
    late = network()
    optimizer = galore(late)
    compiled = torch.compile(late, backend="aot_eager")
    for seed in range(3):
        backward(compiled, seed)
        optimizer.step()
    assert torch.equal(weights(late), expected)


@says("channels_last")
def channels_last() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(4, 6, 3))
    with pytest.raises(ValueError, match=r"0\.weight is not contiguous"):
        galore(copy.deepcopy(plain).to(memory_format=torch.channels_last), ("0",))
    optimizer, before = galore(plain, ("0",)), weights(plain)
    x = torch.randn(2, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    plain(x).square().mean().backward()
    optimizer.step()
    assert not torch.equal(weights(plain), before)


@says("sparse embeddings")
def sparse() -> None:
    for targets in (("0",), ("1",)):
        net = nn.Sequential(nn.Embedding(30, 12, sparse=True), nn.Linear(12, 12))
        optimizer, before = galore(net, targets), weights(net)
        with pytest.raises((NotImplementedError, ValueError, RuntimeError)):
            _look_up(net, optimizer)
        assert torch.equal(weights(net), before)
    dense = nn.Sequential(nn.Embedding(30, 12), nn.Linear(12, 12))
    _look_up(dense, galore(dense, ("0", "1")))


def _look_up(net: nn.Module, optimizer: GaLoreAdamW) -> None:
    net(torch.tensor([1, 2])).sum().backward()
    optimizer.step()


@says("DDP, FSDP")
def processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net = network()
    optimizer = galore(net)
    with monkeypatch.context() as patch:
        patch.setattr(dist, "is_initialized", lambda: True)
        patch.setattr(dist, "get_world_size", lambda *_: 2)
        with pytest.raises(RuntimeError, match="trains in one"):
            galore(network())
        backward(net)
        with pytest.raises(RuntimeError, match="trains in one"):
            optimizer.step()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        alone = network()
        assert torch.equal(after(alone, nn.parallel.DistributedDataParallel(alone)), after(network()))
    finally:
        dist.destroy_process_group()


@says("a model on several devices")
def devices() -> None:
    net = network()
    net[2].to("meta")
    with pytest.raises(ValueError, match=r"0\.weight on cpu, 2\.weight on meta"):
        galore(net)
    net[2].requires_grad_(False)
    assert galore(net, ("0",)).attached


@says("learning rate schedules")
def schedules() -> None:
    net = network()
    optimizer = galore(net)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step == 0))
    backward(net)
    optimizer.step(lambda: 1.0)
    schedule.step()
    moved = weights(net)
    backward(net)
    optimizer.step()
    assert torch.equal(weights(net), moved)
    other = galore(copy.deepcopy(net))
    other.load_state_dict(optimizer.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(*(each.state_tensors().values() for each in (optimizer, other)), strict=True)
    )


@says("groups of the official package")
def official() -> None:
    for kind in ("std", "reverse_std", "left", "right"):
        weight = nn.Parameter(torch.ones(6, 8))
        group = {"params": [weight], "rank": 2, "update_proj_gap": 200, "scale": 0.25, "proj_type": kind}
        assert GaLoreAdamW([group]).projected[0].rank == 2
    with pytest.raises(ValueError, match="'full' in group 0"):
        GaLoreAdamW([{"params": [weight], "rank": 2, "proj_type": "full"}])


@says("a second GaLoreAdamW")
def taken_over() -> None:
    net = network()
    first = galore(net)
    second = galore(net)
    assert not first.attached
    backward(net)
    with pytest.raises(RuntimeError, match="has taken it"):
        first.step()
    second.step()
    first.attach()
    assert not second.attached
    backward(net)
    first.step()
    assert first.clock == 1


@says("another optimizer afterwards")
def dropped() -> None:
    net = network()
    optimizer, other = galore(net), torch.optim.AdamW(net.parameters())
    backward(net)
    with pytest.raises(RuntimeError, match=r"release\(\)"):
        other.step()
    optimizer.release()
    backward(net)
    assert all(p.grad is not None for p in net.parameters())
    optimizer = galore(net)
    del optimizer
    backward(net)
    other.step()
    assert all(p.grad is not None for p in net.parameters())


@says("a copy of the model")
def copies() -> None:
    net = network()
    optimizer = galore(net)
    project_in_backward(net, optimizer)
    for twin in (copy.deepcopy(net), torch.optim.swa_utils.AveragedModel(net)):
        backward(twin)
        assert all(p.grad is not None for p in twin.parameters())
    assert not any(slot.has_gradient for slot in optimizer.slots.values())


@says("`weight.requires_grad_(False)`")
def frozen() -> None:
    net = network()
    to_int8(net[0])
    optimizer = galore(net)
    hand_over_int8(net, optimizer)
    project_in_backward(net, optimizer)
    backward(net)
    optimizer.step()
    net[0].receive = None
    net[2].weight.requires_grad_(False)
    backward(net)
    assert [name for name, slot in zip("02", optimizer.projected, strict=True) if slot.has_gradient] == []
    hand_over_int8(net, optimizer)
    net[2].weight.requires_grad_(True)
    backward(net)
    assert all(slot.has_gradient for slot in optimizer.projected)


@says("`weight.register_hook`")
def hooked() -> None:
    for early in (True, False):
        net, seen = network(), []
        optimizer, before = galore(net), net[0].weight.detach().clone()
        if early:
            net[0].weight.register_hook(torch.zeros_like)
        project_in_backward(net, optimizer)
        if not early:
            net[0].weight.register_hook(torch.zeros_like)
        net[0].weight.register_post_accumulate_grad_hook(lambda p, seen=seen: seen.append(p.grad))
        backward(net)
        optimizer.step()
        assert seen == [None]
        assert torch.equal(net[0].weight, before)
    torch._dynamo.reset()
    net = network()
    optimizer, before = galore(net), net[0].weight.detach().clone()
    net[0].weight.register_hook(torch.zeros_like)
    project_in_backward(net, optimizer)
    torch.compile(net, backend="eager")(batch(1)[0]).sum().backward()
    optimizer.step()
    assert torch.equal(net[0].weight, before)
    assert not torch.equal(net[2].weight, network()[2].weight)


@says("`torch.autograd.grad` of an input")
def of_an_input() -> None:
    net = network()
    optimizer = galore(net)
    for inside in (False, True):
        if inside:
            project_in_backward(net, optimizer)
        x = batch(3)[0].requires_grad_()
        torch.autograd.grad(net(x).sum(), x)
        assert any(slot.has_gradient for slot in optimizer.projected) == inside
        optimizer.zero_grad()
        backward(net)
        optimizer.step()


@says("transformers' Trainer")
def trainer() -> None:
    pytest.importorskip("accelerate", reason="Trainer needs accelerate")
    from transformers import Trainer, TrainingArguments

    rows = [{"x": x, "labels": y} for x, y in zip(*batch(7), strict=True)]
    options: dict[str, Any] = {"report_to": "none", "use_cpu": True, "max_grad_norm": 0, "disable_tqdm": True}

    def trained(folder: str, until: int, resume: bool = False) -> Tensor:
        net = network()
        arguments = TrainingArguments(folder, max_steps=until, save_steps=2, lr_scheduler_type="constant", **options)
        Trainer(net, arguments, train_dataset=rows, optimizers=(galore(net), None)).train(resume_from_checkpoint=resume)
        return weights(net)

    half, whole = trained("halves", 2), trained("whole", 4)
    assert torch.equal(trained("halves", 4, resume=True), whole)
    assert not torch.equal(half, whole)


@says("accelerate")
def accelerating() -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    net, plain = network(), network()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    optimizer, other = galore(net), galore(plain)
    model, wrapped = accelerator.prepare(net, optimizer)
    for seed in range(4):
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.mse_loss(model(batch(seed)[0]), batch(seed)[1]))
            wrapped.step()
            wrapped.zero_grad()
        backward(plain, seed, 0.5)
        if seed % 2:
            other.step()
    assert optimizer.clock == 2
    torch.testing.assert_close(weights(net), weights(plain), rtol=0, atol=1e-7)


@says("Lightning")
def lightning() -> None:
    library: Any = pytest.importorskip("lightning", reason="lightning is not installed")

    class Module(library.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, rows: Any, _: int) -> Tensor:
            return nn.functional.mse_loss(self.net(rows[0]), rows[1])

        def configure_optimizers(self) -> GaLoreAdamW:
            return galore(self.net)

    class Clipping(Module):
        def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any = None, **_: Any) -> None:
            optimizer.clip_grad_norm_(gradient_clip_val)

    rows: Any = [batch(seed) for seed in range(2)]  # Lightning goes on exactly between epochs only
    loader = torch.utils.data.DataLoader(rows, batch_size=None)

    def trained(module: Any, epochs: int, folder: str, goes_on: str | None = None, **options: Any) -> Tensor:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
        trainer = library.Trainer(max_epochs=epochs, accelerator="cpu", **quiet, **options)
        trainer.fit(module, loader, ckpt_path=goes_on)
        trainer.save_checkpoint(folder)
        return weights(module)

    free = trained(Module(), 2, "free")
    assert torch.equal(trained(Module(), 2, "idle", gradient_clip_val=1e-3), free)
    whole = trained(Clipping(), 2, "whole", gradient_clip_val=1e-3)
    assert not torch.equal(whole, free)
    trained(Clipping(), 1, "half", gradient_clip_val=1e-3)
    assert torch.equal(trained(Clipping(), 2, "again", "half", gradient_clip_val=1e-3), whole)
    assert torch.isfinite(trained(Module(), 1, "bf16", precision="bf16-mixed")).all()


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_true(row: str, request: pytest.FixtureRequest) -> None:
    (shown,) = [shown for start, shown in STATEMENTS.items() if row.startswith(start)]
    names = shown.__code__.co_varnames[: shown.__code__.co_argcount]
    shown(*(request.getfixturevalue(name) for name in names))


def test_no_statement_outlives_its_row() -> None:
    assert all(any(row.startswith(start) for row in ROWS) for start in STATEMENTS)
