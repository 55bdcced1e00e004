"""The specification against what can be known without it: libraries, and what each paper's equations imply."""

import itertools

import pytest
import torch

from galore.kernels.reference import methods, rules
from galore.kernels.reference.rules import Settings, State

from .cases import A, B, R, matrix


def basis(rank=R):
    return torch.linalg.qr(matrix(A, rank)).Q


def test_the_whole_gradient_under_adamw_takes_the_steps_of_torch():
    w, theirs = matrix(A, B), torch.nn.Parameter(torch.empty(A, B, dtype=torch.float64))
    theirs.data.copy_(w)
    optimizer = torch.optim.AdamW([theirs], lr=0.02, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1)
    state, settings = State(A, B), Settings(0.02, decay=0.1, beta1=0.8, beta2=0.9, eps=1e-3)
    for _ in range(10):
        theirs.grad = matrix(A, B)
        w = methods.step(w, theirs.grad, None, state, settings, methods.galore, rules.adamw)
        optimizer.step()
    torch.testing.assert_close(w, theirs.detach())


@pytest.mark.parametrize("rule", rules.RULES.values(), ids=rules.RULES)
@pytest.mark.parametrize("name", ["none", "frugal", "fira"])
def test_a_subspace_that_is_everything_is_the_rule_itself(name, rule):
    """With P = I nothing is left over."""
    g, h = matrix(A, B), Settings(1.0)
    u = methods.METHODS[name](g, torch.eye(A, dtype=torch.float64), State(A, B), h, rule)
    torch.testing.assert_close(u, rule(g, State(A, B), h))


@pytest.mark.parametrize("name", ["none", "fira"])
def test_within_the_subspace_the_update_is_the_direction(name):
    p, g, h = basis(), matrix(A, B), Settings(1.0)
    u = methods.METHODS[name](g, p, State(R, B), h, rules.adamw)
    torch.testing.assert_close(p.mT @ u, rules.adamw(p.mT @ g, State(R, B), h))
    assert (torch.linalg.matrix_rank(u) == R) == (name == "none")


def test_firas_residual_is_scaled_column_by_column_as_the_direction_is():
    p, g, h = basis(), matrix(A, B), Settings(1.0)
    r = p.mT @ g
    n = rules.adamw(r, State(R, B), h)
    outside = methods.fira(g, p, State(R, B), h, rules.adamw) - p @ n
    torch.testing.assert_close(outside.norm(dim=0) / (g - p @ r).norm(dim=0), n.norm(dim=0) / r.norm(dim=0))


def test_apollo_scales_columns_and_apollo_mini_the_matrix():
    p, g, h = matrix(A, R), matrix(A, B), Settings(1.0)
    r = p.mT @ g
    n = rules.adamw(r, State(R, B), h)
    scales = methods.apollo(g, p, State(R, B), h, rules.adamw) / g
    torch.testing.assert_close(scales, (n.norm(dim=0) / r.norm(dim=0)).expand(A, B))
    mini = methods.apollo_mini(g, p, State(R, B), h, rules.adamw) / g
    torch.testing.assert_close(mini, (128**0.5 * n.norm() / r.norm()).expand(A, B))


def test_frugal_adds_signs():
    p, g, h = basis(), matrix(A, B), Settings(1.0)
    signs = methods.frugal(g, p, State(R, B), h, rules.adamw) - methods.galore(g, p, State(R, B), h, rules.adamw)
    torch.testing.assert_close(signs.abs(), torch.ones_like(signs))
    assert bool((signs * (g - p @ p.mT @ g) > 0).all())


def test_what_is_left_over_is_of_one_norm_or_orthogonal_and_scaled_by_c():
    p, g, h = basis(), matrix(A, B), Settings(1.0, outside=0.5, sides=(A, B))
    inside = methods.galore(g, p, State(R, B), h, rules.adamw)
    added = methods.columns(g, p, State(R, B), h, rules.adamw) - inside
    torch.testing.assert_close(added.norm(dim=0), torch.full((B,), 0.5 * (A - R) ** 0.5, dtype=torch.float64))
    torch.testing.assert_close(p.mT @ added, torch.zeros(R, B, dtype=torch.float64), atol=1e-12, rtol=0)
    values = torch.linalg.svdvals(methods.orthogonal(g, p, State(R, B), h, rules.adamw) - inside)
    assert bool((values[: A - R] / (0.1 * B**0.5) > 0.6).all())
    assert float(values[A - R :].max()) < 1e-12
    whole = basis(A)
    for rule in (rules.muon, rules.normuon):
        remembered = methods.joint(g, whole, State(A, B), h, rule)
        torch.testing.assert_close(remembered, rule(g, State(A, B), h))
        in_parts = methods.joint_in_parts(g, p, State(R, B), Settings(1.0, sides=(A, B)), rule)
        torch.testing.assert_close(in_parts, rule(g, State(A, B), h))
    for method in (methods.columns, methods.alice, methods.orthogonal):
        of_noise = method(g, whole, State(A, B), h, rules.adamw)
        torch.testing.assert_close(of_noise, methods.galore(g, whole, State(A, B), h, rules.adamw))


def test_alice_averages_the_norms_of_what_is_left_over():
    p, h, state = basis(), Settings(1.0, beta1=0.5), State(R, B)
    one, two = matrix(A, B), matrix(A, B)
    methods.alice(one, p, state, h, rules.adamw)
    allowed = 1.01 * state.norm
    inside = methods.galore(two, p, State(R, B), h, lambda *_: torch.zeros(R, B, dtype=torch.float64))
    added = methods.alice(two, p, state, h, lambda *_: torch.zeros(R, B, dtype=torch.float64)) - inside
    left = [(g - p @ p.mT @ g).square().sum(0) for g in (one, two)]
    expected = (A - R) ** 0.5 * (left[1] / (0.25 * left[0] + 0.5 * left[1])).sqrt()
    torch.testing.assert_close(added.norm(dim=0), expected * min(1.0, allowed / float(expected.norm())))


def test_completion_gives_new_directions_what_lay_outside():
    h, rotated, completed = Settings(1.0), State(R, B), State(R, B)
    g, outside, c = matrix(R, B), torch.rand(B, dtype=torch.float64), torch.diag(torch.tensor([1.0, 0.6, 0.0]).double())
    for state in (rotated, completed):
        rules.adamw(g, state, h)
    methods.rotate(rotated, c, h)
    methods.complete(completed, c, h, outside)
    expected = 0.001 * torch.outer(torch.tensor([0.0, 0.64, 1.0]).double(), outside)
    torch.testing.assert_close(completed.v - rotated.v, expected)
    torch.testing.assert_close(completed.m, rotated.m)


def test_habits_change_what_they_say():
    p, g, h = basis(), matrix(A, B), {"lr": 0.1, "alpha": 0.25, "decay": 0.5, "eps": 0.1}

    def after(*habits):
        settings, w = Settings(**h, habits=frozenset(habits)), torch.ones(A, B, dtype=torch.float64)
        return methods.step(w, g, p, State(R, B), settings, methods.fira, rules.adamw)

    plain = after()
    u = (0.95 - plain) / 0.025
    torch.testing.assert_close(after("decay"), 0.95 * (1 - 0.025 * u))
    assert all(
        not torch.equal(after(one), after(other)) for one, other in itertools.combinations(("ε", "α", "decay"), 2)
    )
    inside = p.mT @ (0.95 - after("α")) / 0.025  # P N and (1 - α) P R scaled by φ, over α
    r = p.mT @ g
    n = rules.adamw(r, State(R, B), Settings(**h))
    torch.testing.assert_close(inside, n + 3 * n.norm(dim=0) / r.norm(dim=0) * r)


def test_a_signed_permutation_of_the_basis_permutes_the_state():
    h, state = Settings(1.0, beta2=0.99), State(R, B)
    for _ in range(5):
        rules.adamw(matrix(R, B), state, h)
    m, v = state.m, state.v
    order, signs = torch.tensor([2, 0, 1]), torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)[:, None]
    state.row = torch.arange(3.0, dtype=torch.float64)
    methods.keep(state, torch.eye(R), h)
    assert state.m is m
    methods.rotate(state, torch.eye(R, dtype=torch.float64)[order] * signs, h)
    torch.testing.assert_close(state.m, m[order] * signs)
    torch.testing.assert_close(state.v, v[order])
    assert state.row.tolist() == [2, 0, 1]
    methods.reset(state, torch.eye(R), h)
    assert (state.t, float(state.m.norm() + state.v.norm() + state.row.norm())) == (0, 0.0)


def test_what_a_new_basis_has_no_direction_for_is_lost():
    h, state = Settings(1.0), State(R, B)
    g = matrix(R, B)
    rules.adamw(g, state, h)
    methods.rotate(state, torch.eye(R, dtype=torch.float64)[:1], h)
    torch.testing.assert_close(state.m, 0.1 * g[:1])
    torch.testing.assert_close(state.v, 0.001 * g[:1] ** 2)


def test_lora_is_the_product_of_its_factors():
    w, a, b = matrix(A, B), matrix(2, B), matrix(A, 2)
    torch.testing.assert_close(methods.lora(w, a, b, alpha=6.0, r=2) - w, 3 * torch.einsum("mr,rn->mn", b, a))
