"""The evolution is a function of its seed, keeps factors ascending within their ends, and finds what is planted."""

from __future__ import annotations

import itertools
import random

from galore.trainer.trained.longcontext.evolution import Candidate, Size, Space, ascending, cross, evolve, mutate

GOAL = (1.0, 1.2, 2.0, 5.0, 8.0)
SPACE = Space(10.0, attention=True, starts=(0, 2, 4))
FIRST = [Candidate((8.0,) * 5, 1.0), Candidate((1.0,) * 5, 1.2)]


def distance(candidate: Candidate) -> float:
    far = sum(abs(a - b) for a, b in zip(candidate.factors, GOAL, strict=True))
    return far + abs(candidate.attention - 1.1) + abs(candidate.start - 2)


def course(seed: int, generations: int) -> list[Candidate]:
    return list(itertools.islice(evolve(FIRST, SPACE, Size(12, 6, 8, 8), seed, distance), generations))


def test_it_is_a_function_of_the_seed_and_goes_on_as_it_began() -> None:
    assert course(1, 8)[:4] == course(1, 4)
    assert course(1, 8) != course(2, 8)


def test_it_finds_what_is_planted() -> None:
    found = course(0, 40)
    losses = [distance(each) for each in found]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.1 * min(map(distance, FIRST))
    assert found[-1].start == 2


def test_a_candidate_is_scored_once() -> None:
    asked = list[Candidate]()
    list(itertools.islice(evolve(FIRST, SPACE, Size(), 0, lambda each: asked.append(each) or distance(each)), 5))
    assert len(asked) == len(set(asked)) >= 16


def test_children_ascend_within_the_ends() -> None:
    draw, one = random.Random(0), Candidate((1.0, 1.5, 1.5, 9.0, 10.0), 1.0)
    other = Candidate((5.0, 6.0, 7.0, 8.0, 9.5), 1.3, 4)
    for _ in range(200):
        for child in (mutate(one, SPACE, draw), cross(one, other, draw), cross(other, one, draw)):
            assert list(child.factors) == sorted(child.factors)
            assert child.factors[0] >= 1.0
            assert child.factors[-1] <= 10.0
            assert child.start in SPACE.starts
    assert {mutate(one, Space(10.0, attention=False), draw).attention for _ in range(50)} == {1.0}


def test_factors_as_candidates_have_them() -> None:
    assert ascending([0.5, 1.234, 1.1, 20], 10) == (1.0, 1.23, 1.23, 10)
