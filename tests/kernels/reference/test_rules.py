"""The inner rules of the specification against what can be known without it: libraries, and what equations imply."""

import pytest
import torch

from galore.kernels.reference import rules
from galore.kernels.reference.rules import Settings, State

from .cases import A, B, R, matrix


@pytest.mark.parametrize("shape", [(A, B), (B,)])
def test_adafactor_takes_the_directions_of_its_authors_code(shape):
    """As transformers keeps it, without the relative step sizes."""
    optimization = pytest.importorskip("transformers.optimization")
    theirs, state = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64)), State(*shape)
    options = {"lr": 1.0, "scale_parameter": False, "relative_step": False, "warmup_init": False, "beta1": 0.9}
    optimizer = optimization.Adafactor([theirs], **options)
    w = torch.zeros(shape, dtype=torch.float64)
    for _ in range(10):
        theirs.grad = matrix(*shape)
        w = w - rules.adafactor(theirs.grad, state, Settings(1.0, beta1=0.9))
        optimizer.step()
    torch.testing.assert_close(w, theirs.detach(), rtol=1e-6, atol=1e-6)


def test_muon_and_sumo_move_along_the_singular_vectors_of_the_momentum():
    g = matrix(R, B)
    u, s, vh = torch.linalg.svd(g, full_matrices=False)
    quintic = s / s.norm()
    for _ in range(5):
        quintic = 3.4445 * quintic - 4.7750 * quintic**3 + 2.0315 * quintic**5
    first = Settings(1.0, sides=(R, 25))  # 0.2·√25 = 1
    torch.testing.assert_close(rules.muon(g, State(R, B), first), (u * quintic) @ vh)
    torch.testing.assert_close(rules.sumo(g, State(R, B), first), u @ vh)


def test_normuon_is_muon_with_every_output_of_one_size_in_the_course_of_steps():
    g, h = matrix(A, B) * torch.logspace(0, -1, A, dtype=torch.float64)[:, None], Settings(1.0, sides=(A, B))
    of_muon, once = rules.muon(g, State(A, B), h), rules.normuon(g, State(A, B), h)
    torch.testing.assert_close(once / once.norm(dim=1)[:, None], of_muon / of_muon.norm(dim=1)[:, None])
    torch.testing.assert_close(once.norm(dim=1), (of_muon.norm() / A**0.5).expand(A))
    turned = rules.normed(g.mT, State(B, A), Settings(1.0, sides=(A, B), turned=True))
    torch.testing.assert_close(turned.mT, once)
    state, other = State(A, B), matrix(A, B)
    rules.normed(g, state, h)
    o = [rules.orthogonal(x, state, h) for x in (g, other)]
    found = o[1] / (0.95 * o[0].square().mean(1) + o[1].square().mean(1)).sqrt()[:, None]
    torch.testing.assert_close(rules.normed(other, state, h), found * o[1].norm() / found.norm())
    g[1] = 0
    assert not rules.normuon(g, State(A, B), h)[1].any()


def test_sumo_averages_and_muon_looks_ahead():
    one, two, h = matrix(R, B), matrix(R, B), Settings(1.0, mu=0.5)
    for rule, ahead in ((rules.sumo, lambda m, g: m), (rules.muon, lambda m, g: 0.5 * m + 0.5 * g)):
        state = State(R, B)
        rule(one, state, h)
        n, m = rule(two, state, h), 0.25 * one + 0.5 * two
        torch.testing.assert_close(state.m, m)
        whitened = rules.polar if rule is rules.sumo else rules.newton_schulz
        torch.testing.assert_close(n, 0.2 * whitened(ahead(m, two)))


def test_racs_takes_signs_of_a_product_of_rows_and_columns_and_scale_one_size_per_output():
    sizes = torch.outer(torch.logspace(-3, 0, A, dtype=torch.float64), torch.logspace(0, -4, B, dtype=torch.float64))
    g = sizes * matrix(A, B).sign()
    torch.testing.assert_close(rules.racs(g, State(A, B), Settings(1.0)), g.sign())
    outputs = rules.scale(g, State(A, B), Settings(1.0))
    torch.testing.assert_close(outputs.square().mean(1), torch.ones(A, dtype=torch.float64))
    state = State(A, B)
    rules.scale_momentum(g, state, Settings(1.0, mu=0.75))
    torch.testing.assert_close(state.m, 0.25 * g)


def test_growth_is_limited_after_the_first_step_and_by_the_package_before_the_correction():
    x, h, packaged = matrix(A, B), Settings(1.0), Settings(1.0, habits=frozenset({"limiter"}))
    norms, state = [], State(A, B)
    for size in (1.0, 1.005, 4.0, 4.0, 0.5, 0.6):
        norms.append(float(rules.limited(size * x, state, h).norm() / x.norm()))
    assert norms == pytest.approx([1.0, 1.005, 1.005 * 1.01, 1.005 * 1.01**2, 0.5, 0.505])
    state = State(A, B)
    for state.t in (1, 2):  # the correction grows less than S shrinks, and more than by 1 %
        norms.append(float(rules.limited(x, state, packaged).norm() / x.norm()))
    (first, second), correct = norms[-2:], [(1 - 0.999**t) ** 0.5 / (1 - 0.9**t) for t in (1, 2)]
    assert (first, second) == pytest.approx((1.0, min(1.0, 1.01 * correct[1] / correct[0])))
