"""`galore rope-search`: factors of rotary positions by the loss of a model on longer rows; it goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from galore.trainer.checkpoint.checkpoint import Skipped
from galore.trainer.checkpoint.identity import values
from galore.trainer.common.durable import make_directory, replace_file
from galore.trainer.common.errors import UserError
from galore.trainer.common.format import exponential
from galore.trainer.common.lock import alone_in
from galore.trainer.data.batch import Progress, Scoring
from galore.trainer.data.prepare import read_data
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.data.score import evaluate
from galore.trainer.models.head import split_head
from galore.trainer.models.rope.rotary import rotating
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.recipe.schema.rope import RopeSection
from galore.trainer.trained.evaluation import check_tokenizer, for_model
from galore.trainer.trained.longcontext.evolution import Candidate, Size, evolve
from galore.trainer.trained.longcontext.problem import Problem
from galore.trainer.trained.longcontext.scores import Scores
from galore.trainer.trained.runmodel import StoredModel, load_run_model

SCORES, RESULT = "scores.json", "rope.json"


class BudgetError(Exception):
    """The seconds of a call are over. A TimeoutError would be that of a file system, too."""


@dataclass(frozen=True)
class Asked:
    """What is searched. `length`: tokens of the rows; `rows`: how many are scored; `budget`: seconds of this call."""

    length: int
    rows: int = 8
    seed: int = 42
    generations: int = 20
    budget: float | None = None
    start_tokens: tuple[int, ...] = (0,)
    size: Size = field(default_factory=Size)


@dataclass
class Found:
    """What came of a search.

    `known`: losses of the usual ways, in nats; `usual_factors`: what they slow each pair of dimensions by;
    `course`: the lowest loss after each candidate.
    """

    candidate: Candidate
    loss: float
    known: dict[str, float]
    usual_factors: dict[str, list[float]]
    course: list[float]
    generations: int
    done: bool
    short: bool
    skipped: tuple[Skipped, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def perplexity(self) -> float:
        return exponential(self.loss)


Tell = Callable[[int, int, int, float], None]
"""Told the generation, how many are asked for, candidates scored, and the lowest loss."""


def search(
    path: str,
    loaded: LoadedRecipe,
    root: Path,
    asked: Asked,
    *,
    device: str = "cpu",
    checkpoint: str | None = None,
    progress: Progress | None = None,
    tell: Tell = lambda *_: None,
) -> Found:
    """Search factors for the model `path` on rows that the recipe holds out, and write them to `root`/rope.json.

    Where rows are no longer than the model was trained at, the factors are those of short sequences of a model that has
    long ones. What was scored is kept in `root`; a call with the same arguments goes on there, and comes to the same.

    Raises:
        UserError: the model has no rotary positions, there are no such rows, or `root` holds another search.
    """
    stored = load_run_model(path, device, checkpoint)
    problem = Problem.of(stored.model.config, asked.length, asked.start_tokens)
    recipe = for_model(loaded.recipe, stored)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_length": asked.length})})
    data = read_data(recipe, loaded.base_dir, progress)
    check_tokenizer(data, stored)
    if not hasattr(data, "validation_batches"):
        raise UserError("holds out no text to continue", where="data", fix="name a recipe of plain text")
    batches: list[TokenBatch] = list(data.validation_batches(1, asked.rows * asked.length))[: asked.rows]
    if not batches:
        what = f"holds out no row of {asked.length:,} tokens"
        raise UserError(what, where="data", fix="raise data.validation_fraction, or search at a lower --length")
    make_directory(root)
    with alone_in(root):
        scores = Scores.of(root / SCORES, _identity(stored, data.position(), asked))
        return _run(stored, problem, batches, scores, root, asked, tell)


def _identity(stored: StoredModel, position: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """What the losses depend on, and the course of the search."""
    told = {key: value for key, value in asdict(asked).items() if key not in ("generations", "budget")}
    known = {"model": stored.origin, "weights": _digest(stored.model), "data": position.get("fingerprint")}
    plain: dict[str, Any] = json.loads(json.dumps(told))
    return known | plain


def _digest(model: PreTrainedModel) -> str:
    """SHA-256 of configuration and weights."""
    digest = hashlib.sha256(json.dumps(values(model.config), sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _run(
    stored: StoredModel,
    problem: Problem,
    batches: Sequence[TokenBatch],
    scores: Scores,
    root: Path,
    asked: Asked,
    tell: Tell,
) -> Found:
    end = None if asked.budget is None else time.monotonic() + asked.budget
    model, course, generation = stored.model, list[float](), 0

    def loss_of(rope: RopeSection) -> float:
        key = json.dumps(rope.model_dump(mode="json"), sort_keys=True)

        def compute() -> float:
            if end is not None and time.monotonic() > end:
                raise BudgetError
            with rotating(model, problem.config(rope)), torch.no_grad():
                return evaluate(model, batches, Scoring(split_head)).loss_nats

        return scores.loss(key, compute)

    def score(candidate: Candidate) -> float:
        loss = loss_of(problem.section(candidate))
        best[candidate] = loss
        course.append(min(loss, course[-1] if course else loss))
        tell(generation, asked.generations, len(course), course[-1])
        return loss

    best, known, late = dict[Candidate, float](), dict[str, float](), False
    try:
        known |= {name: loss_of(rope) for name, rope in problem.usual().items()}
        for _ in evolve(problem.first(), problem.space, asked.size, asked.seed, score):
            generation += 1
            if generation >= asked.generations:
                break
    except BudgetError:
        late = True
    if not best:
        what = f"{asked.budget:g} seconds end before the first candidate is scored"
        raise UserError(what, where="--budget", fix="raise it, and call again: what is scored is kept")
    chosen = min(best, key=lambda each: best[each])
    found = Found(
        chosen,
        best[chosen],
        known,
        problem.usual_factors(),
        course,
        generation,
        not late,
        problem.short,
        stored.skipped,
    )
    found.values = _values(problem, found, asked, stored)
    replace_file(root / RESULT, json.dumps(found.values, indent=1) + "\n")
    return found


def _values(problem: Problem, found: Found, asked: Asked, stored: StoredModel) -> dict[str, Any]:
    """What `model.rope: {type: longrope, factors: FILE}` reads, and how it was found."""
    return problem.section(found.candidate).model_dump(mode="json") | {
        "search": {
            "model": stored.origin,
            "length": asked.length,
            "rows": asked.rows,
            "seed": asked.seed,
            "generations": found.generations,
            "candidates": len(found.course),
            "loss_nats": found.loss,
            "perplexity": found.perplexity,
            "loss_nats_of": found.known,
        }
    }
