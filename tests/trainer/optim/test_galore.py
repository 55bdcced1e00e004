"""GaLoreAdamW: its equations, exact accumulation and clipping, a transactional step, and one live gradient."""

import math

import pytest
import torch
from torch import nn

from galore.kernels.reference import operations as reference
from galore.kernels.storage import blockwise
from galore.trainer.optim import GaLoreAdamW, galore_groups, project_in_backward

SHAPES = [(12, 30), (30, 12), (16, 16)]


def network(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(24, 40), nn.Tanh(), nn.Linear(40, 24), nn.Tanh(), nn.Linear(24, 24)).to(dtype)


def optimizer_for(net, rank=6, **options):
    return GaLoreAdamW(
        galore_groups(net, rank, targets=["0", "2", "4"]), **{"lr": 1e-2, "update_proj_gap": 4, **options}
    )


def backward(net, x, y, parts=1):
    for xs, ys in zip(x.chunk(parts), y.chunk(parts), strict=True):
        ((net(xs) - ys).square().sum() / len(x)).backward()


def run(net, optimizer, steps, parts=1, clip=0.5):
    generator = torch.Generator().manual_seed(7)
    dtype = next(net.parameters()).dtype
    norms = []
    for _ in range(steps):
        x, y = (torch.randn(16, 24, generator=generator).to(dtype) for _ in range(2))
        if optimizer.wants_sketch_pass:
            with optimizer.sketching():
                backward(net, x, y, parts)
        backward(net, x, y, parts)
        if clip:
            norms.append(optimizer.clip_grad_norm_(clip))
        optimizer.step()
    return norms


def distance(a, b):
    pairs = [(p.detach(), q.detach()) for p, q in zip(a.parameters(), b.parameters(), strict=True)]
    return math.sqrt(
        sum((p - q).double().square().sum() for p, q in pairs) / sum(q.double().square().sum() for _, q in pairs)
    )


@pytest.mark.parametrize("convention", ["paper", "reference"])
@pytest.mark.parametrize("shape", SHAPES)
def test_twenty_steps_across_refreshes_equal_the_float64_statement(shape, convention):
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(shape))
    settings = {"lr": 0.03, "scale": 0.25, "weight_decay": 0.1}
    optimizer = GaLoreAdamW(
        [{"params": [w], "rank": 5}],
        betas=(0.9, 0.99),
        eps=1e-6,
        update_proj_gap=6,
        proj_type="svd",
        stagger=False,
        convention=convention,
        transport="keep",
        **settings,
    )
    exact, m, v = w.detach().double(), 0.0, 0.0
    for step in range(20):
        grad = torch.randn(shape) @ torch.diag(torch.linspace(1, 0.1, shape[1]))
        if step % 6 == 0:
            u, _, vh = torch.linalg.svd(grad.double(), full_matrices=False)
            p = vh[:5].mT if shape[0] >= shape[1] else u[:, :5]
            p32 = torch.linalg.svd(grad, full_matrices=False)
            p32 = p32.Vh[:5].mT if shape[0] >= shape[1] else p32.U[:, :5]
            p = p * torch.sign((p * p32).sum(0))  # the vectors' signs are LAPACK's choice
        r = reference.project(p, reference.orient(grad.double()))
        n, m, v = reference.adam(r, torch.as_tensor(m), torch.as_tensor(v), step + 1, 0.9, 0.99, 1e-6, convention)
        lifted = reference.lift_update(reference.orient(exact), p, n, **settings, convention=convention)
        exact = lifted.mT if shape[0] >= shape[1] else lifted
        w.grad = grad
        optimizer.step()
    torch.testing.assert_close(w.detach().double(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_reference_convention_equals_the_official_package(shape):
    official = pytest.importorskip("galore_torch", reason="the bench extra is not installed")
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    a = GaLoreAdamW(
        [{"params": [ours], "rank": 5}],
        lr=1e-2,
        eps=1e-6,
        weight_decay=0.1,
        update_proj_gap=10,
        proj_type="svd",
        stagger=False,
        convention="reference",
    )
    b = official.GaLoreAdamW(
        [{"params": [theirs], "rank": 5, "scale": 0.25, "update_proj_gap": 10, "proj_type": "std"}],
        lr=1e-2,
        weight_decay=0.1,
        no_deprecation_warning=True,
    )
    for _ in range(50):
        grad = torch.randn(shape) @ torch.diag(torch.linspace(1, 0.1, shape[1]))
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        a.step()
        b.step()
    assert ((ours - theirs).norm() / theirs.norm()).item() <= 1e-5


REFRESHES = [
    {"proj_type": "randomized"},
    {"proj_type": "randomized", "refresh": "two-pass", "stagger": False},
    {"proj_type": "randomized", "refresh": "summed"},
    {"proj_type": "svd"},
    {"rank": None},
]


@pytest.mark.parametrize("options", REFRESHES)
def test_one_times_eight_equals_eight_times_one_with_clipping(options):
    whole, parts = network(), network()
    a, b = optimizer_for(whole, **options), optimizer_for(parts, **options)
    norms = [run(whole, a, 9), run(parts, b, 9, parts=8)]
    assert max(norms[0]) > 0.5, "the clip must bite for the test to mean anything"
    torch.testing.assert_close(torch.tensor(norms[0]), torch.tensor(norms[1]), rtol=1e-5, atol=0)
    assert distance(whole, parts) < 1e-6


def test_first_micro_batch_is_the_mode_that_depends_on_the_split():
    whole, parts = network(), network()
    run(whole, optimizer_for(whole, refresh="first-micro-batch"), 9)
    run(parts, optimizer_for(parts, refresh="first-micro-batch"), 9, parts=8)
    assert distance(whole, parts) > 1e-6


def test_the_norm_is_that_of_the_applied_update_gradient():
    net = network()
    optimizer = optimizer_for(net, proj_type="svd")
    x, y = torch.randn(16, 24), torch.randn(16, 24)
    plain = network()
    backward(plain, x, y)
    backward(net, x, y)
    assert all(p.grad is None for p in net.parameters())
    expected = 0.0
    for p in plain.parameters():
        g = p.grad
        if g.ndim == 2:
            basis = torch.linalg.svd(reference.orient(g), full_matrices=False).U[:, :6]
            g = basis.mT @ reference.orient(g)
        expected += g.double().square().sum().item()
    assert optimizer.clip_grad_norm_(1.0) == pytest.approx(math.sqrt(expected), rel=1e-5)


@pytest.mark.parametrize("when", [0, 2, 4], ids=["first", "ordinary", "refresh"])
@pytest.mark.parametrize("options", [*REFRESHES, {"refresh": "first-micro-batch"}])
def test_a_non_finite_gradient_leaves_everything_as_it_was(options, when):
    net = network()
    optimizer = optimizer_for(net, stagger=False, **{k: v for k, v in options.items() if k != "stagger"})
    run(net, optimizer, when)
    weights = [p.detach().clone() for p in net.parameters()]
    states = {name: t.clone() for name, t in optimizer.state_tensors().items()}
    x = torch.randn(16, 24)
    x[9, 3] = math.nan
    backward(net, x, torch.randn(16, 24), parts=4)
    optimizer.clip_grad_norm_(1.0)
    optimizer.step()
    assert optimizer.report.skipped
    assert optimizer.clock == when
    assert all(torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))
    after = optimizer.state_tensors()
    assert states.keys() == after.keys()
    assert all(torch.equal(states[name], after[name]) for name in states)
    run(net, optimizer, 3)
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())


def test_a_norm_is_that_of_its_own_step():
    """Also where nobody asks for it before the step."""
    net = network()
    optimizer = optimizer_for(net)
    run(net, optimizer, 1)
    before = [p.detach().clone() for p in net.parameters()]
    backward(net, torch.full((16, 24), math.nan), torch.randn(16, 24))
    optimizer.step()
    assert optimizer.report.skipped
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("state_dtype", ["float32", "8bit"])
@pytest.mark.parametrize("through", ["tensors", "state_dict"])
def test_resume_is_bit_equal(dtype, state_dtype, through, monkeypatch):
    monkeypatch.setattr("galore.trainer.optim.parts.storage.SMALLEST_QUANTIZED", 64)
    straight, broken = network(dtype), network(dtype)
    a, b = (optimizer_for(net, state_dtype=state_dtype) for net in (straight, broken))
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randn(16, 24, generator=generator).to(dtype) for _ in range(12)]

    def steps(net, optimizer, xs):
        for x in xs:
            backward(net, x, x.flip(0), parts=2)
            optimizer.clip_grad_norm_(0.5)
            optimizer.step()

    steps(straight, a, batches)
    steps(broken, b, batches[:6])
    resumed = network(dtype, seed=99)
    resumed.load_state_dict(broken.state_dict())
    c = optimizer_for(resumed, state_dtype=state_dtype)
    if through == "tensors":
        c.load_state_tensors(b.state_tensors(), b.clock)
    else:
        c.load_state_dict(b.state_dict())
    steps(resumed, c, batches[6:])
    assert all(torch.equal(p, q) for p, q in zip(straight.parameters(), resumed.parameters(), strict=True))
    ours, theirs = a.state_tensors(), c.state_tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)


def test_bytes_kept_equal_the_formula():
    net = network(torch.bfloat16)
    optimizer = optimizer_for(net, proj_type="svd")
    run(net, optimizer, 1)
    matrices = [(40, 24), (24, 40), (24, 24)]
    vectors = 40 + 24 + 24
    moments = 4 * 2 * (sum(6 * max(shape) for shape in matrices) + vectors)
    counters = 8 * 6
    projectors = 2 * sum(6 * min(shape) for shape in matrices)
    held = optimizer.memory_by_category()
    nothing = {"gradients": 0, "accumulators": 0}
    assert held == {"optimizer_states": moments + counters, "projectors": projectors} | nothing
    planned = [slot.planned_bytes() for slot in optimizer.slots.values()]
    assert (sum(s for s, _ in planned), sum(p for _, p in planned)) == (moments, projectors)


def test_rank_is_clamped_to_the_smaller_side():
    w = nn.Parameter(torch.randn(8, 30))
    optimizer = GaLoreAdamW([{"params": [w], "rank": 99}])
    w.grad = torch.randn(8, 30)
    optimizer.step()
    assert optimizer.state[w]["projector"].shape == (8, 8)


def test_immediate_steps_in_the_hook():
    net = network()
    optimizer = optimizer_for(net, update="immediate")
    before = [p.detach().clone() for p in net.parameters()]
    backward(net, torch.randn(16, 24), torch.randn(16, 24))
    assert all(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert optimizer.memory_by_category()["accumulators"] == 0
    optimizer.step()
    assert optimizer.clock == 1
    with pytest.raises(ValueError, match="immediate"):
        optimizer_for(net, update="immediate", accumulation=4)


def test_immediate_reports_the_norm_of_what_it_applied():
    net, plain = network(), network()
    immediate, later = optimizer_for(net, update="immediate"), optimizer_for(plain, refresh="first-micro-batch")
    x, y = torch.randn(16, 24), torch.randn(16, 24)
    for each, optimizer in ((net, immediate), (plain, later)):
        backward(each, x, y)
        optimizer.step()
    assert immediate.report.grad_norm == pytest.approx(later.report.grad_norm, rel=1e-6)
    assert immediate.report.grad_norm > 0.1
    assert (immediate.report.refreshed, immediate.report.skipped) == (3, False)
    backward(net, x, y)
    assert immediate.clip_grad_norm_(math.inf) > 0.1
    with pytest.raises(RuntimeError, match="nothing is left to clip"):
        immediate.clip_grad_norm_(1.0)


def test_a_partial_step_is_counted_and_named():
    """One layer's gradient is not finite: it stays as it is, the others move, and the report says so."""
    net = network()
    optimizer = optimizer_for(net, update="immediate")
    run(net, optimizer, 2, clip=None)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    kept = {name: t.clone() for name, t in optimizer.state_tensors().items() if name.startswith("2.weight")}
    net[2].weight.register_hook(lambda grad: grad * math.nan)
    x, y = torch.randn(16, 24), torch.randn(16, 24)
    backward(net, x, y)
    optimizer.step()
    moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert moved == before.keys() - {"2.weight"}
    assert all(torch.equal(optimizer.state_tensors()[name], tensor) for name, tensor in kept.items())
    report = optimizer.report
    assert (report.skipped, report.refused, optimizer.clock) == (True, 1, 3)
    assert math.isfinite(report.grad_norm)
    assert report.grad_norm > 0


def test_an_immediate_step_that_moves_nothing_is_a_skipped_one():
    net = network()
    optimizer = optimizer_for(net, update="immediate")
    before = [p.detach().clone() for p in net.parameters()]
    backward(net, torch.full((16, 24), math.nan), torch.randn(16, 24))
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    report = optimizer.report
    assert (report.skipped, report.refused, report.refreshed, optimizer.clock) == (True, 0, 0, 0)
    run(net, optimizer, 1, clip=None)
    assert (optimizer.report.skipped, optimizer.clock) == (False, 1)


def test_decay_groups_and_settings_are_honoured():
    net = network()
    groups = galore_groups(net, 6, targets=["0"], weight_decay=0.5, scale=0.1)
    assert [(g.get("rank"), g["weight_decay"], len(g["params"])) for g in groups] == [
        (6, 0.5, 1),
        (None, 0.5, 2),
        (None, 0.0, 3),
    ]
    with pytest.raises(ValueError, match="cannot be projected"):
        GaLoreAdamW([{"params": [nn.Parameter(torch.ones(3))], "rank": 2}])
    with pytest.raises(ValueError, match="sketch"):
        optimizer_for(net, proj_type="svd", refresh="delayed")


def test_tied_and_repeated_weights_receive_their_whole_gradient():
    shared = nn.Linear(12, 12, bias=False)
    net = nn.Sequential(shared, nn.Tanh(), shared)
    optimizer = GaLoreAdamW(galore_groups(net, 4, targets=["0"]), proj_type="svd")
    x = torch.randn(5, 12)
    net(x).square().sum().backward()
    w = shared.weight.detach().clone().requires_grad_()
    (torch.tanh(x @ w.mT) @ w.mT).square().sum().backward()
    basis = torch.linalg.svd(w.grad, full_matrices=False).Vh[:4].mT
    assert optimizer.clip_grad_norm_(None) == pytest.approx((w.grad @ basis).norm().item(), rel=1e-5)


@pytest.mark.parametrize("rank", [None, 4])
def test_no_two_weights_and_no_two_steps_are_rounded_alike(rank):
    """Equal weights with equal gradients: what differs is where the fp32 sums go up and where down."""
    ones = [nn.Parameter(torch.ones(32, 64, dtype=torch.bfloat16)) for _ in range(2)]
    groups = [{"params": [p], "rank": rank, "scale": 1.0} for p in ones]
    optimizer = GaLoreAdamW(groups, lr=2**-11, update_proj_gap=100, proj_type="svd", side="left")
    gradient, moved = torch.outer(torch.ones(32), torch.linspace(1, 2, 64)), []
    for _ in range(2):
        before = [p.detach().clone() for p in ones]
        for p in ones:
            p.grad = gradient.to(p.dtype)
        optimizer.step()
        moved += [p.detach() != old for p, old in zip(ones, before, strict=True)]
    shares = [float(each.float().mean()) for each in moved]
    assert all(0.005 < share < 0.5 for share in shares), shares
    for other, share in zip(moved[1:], shares[1:], strict=True):
        assert float((moved[0] & other).float().mean()) < 0.75 * min(shares[0], share)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_weight_that_was_frozen_at_first_counts_once_where_a_pass_finds_subspaces(parts):
    found = []
    for frozen in (False, True):
        net = network()
        groups = galore_groups(net, 6, targets=["0", "2", "4"], proj_type="power")
        net[0].requires_grad_(not frozen)
        optimizer = GaLoreAdamW(groups, lr=1e-2, update_proj_gap=2)
        net[0].requires_grad_(True)
        found.append((run(net, optimizer, 3, parts), net))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert distance(found[1][1], found[0][1]) < 1e-5


def test_parameters_can_pass_to_another_optimizer():
    net = network()
    first = optimizer_for(net)
    second = optimizer_for(net)
    assert (first.attached, second.attached) == (False, True)
    run(net, second, 2)
    assert second.clock == 2
    second.release()
    backward(net, torch.randn(4, 24), torch.randn(4, 24))
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("options", [{}, {"transport": "rotate"}])
def test_8_bit_states_take_the_same_steps_without_bitsandbytes(options, monkeypatch):
    pytest.importorskip("bitsandbytes", reason="the 8bit extra is not installed")

    def trained():
        torch.manual_seed(0)
        net = nn.Linear(96, 131, bias=False)
        optimizer = GaLoreAdamW(
            [{"params": [net.weight], "rank": 48}], lr=1e-2, update_proj_gap=3, state_dtype="8bit", **options
        )
        for _ in range(7):
            net(torch.randn(16, 96)).square().mean().backward()
            optimizer.step()
        assert {tensor.dtype for tensor in optimizer.state[net.weight].values()} >= {torch.uint8}
        return net.weight

    expected = trained()
    monkeypatch.setattr(blockwise, "bitsandbytes", lambda: (None, "blocked"))
    assert torch.equal(trained(), expected)


def test_a_gradient_by_hand_that_comes_after_the_norm_is_refused():
    net = nn.Linear(8, 8, bias=False)
    optimizer = GaLoreAdamW([("weight", net.weight)])
    before = net.weight.detach().clone()
    for again in (optimizer.step, lambda: optimizer.clip_grad_norm_(1.0)):
        optimizer.clip_grad_norm_(1.0)
        net.weight.grad = torch.ones(8, 8)
        with pytest.raises(RuntimeError, match="a gradient of weight comes after the norm"):
            again()
        assert torch.equal(net.weight, before)
        optimizer.zero_grad()
    net.weight.grad = torch.ones(8, 8)
    optimizer.clip_grad_norm_(1.0)
    optimizer.step()
    assert not torch.equal(net.weight, before)


@pytest.mark.parametrize("factored", [False, True])
def test_a_gradient_that_comes_after_the_norm_is_refused(factored):
    """It would be applied at the scale of another norm, a NaN in it unseen."""
    net = nn.Linear(64, 64, bias=False)
    optimizer = GaLoreAdamW(galore_groups(net, 4, targets=[""]), update_proj_gap=100)
    if factored:
        project_in_backward(net, optimizer)
    x = torch.randn(8, 64)
    for _ in range(2):
        net(x).square().mean().backward()
        optimizer.step()
    net(x).square().mean().backward()
    optimizer.clip_grad_norm_(1.0)
    before = net.weight.detach().clone()
    with pytest.raises(
        RuntimeError, match="a gradient of weight comes after the norm: call clip_grad_norm_ once a step"
    ):
        (net(x).square().mean() * float("nan")).backward()
    optimizer.step()
    assert not optimizer.report.skipped
    assert torch.isfinite(net.weight).all()
    assert not torch.equal(net.weight, before)
    net(x).square().mean().backward()
    optimizer.clip_grad_norm_(1.0)
    optimizer.zero_grad()
    net(x).square().mean().backward()
