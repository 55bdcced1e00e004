"""`galore eval`: score the model of a run, or any model, on what a recipe holds out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from galore.trainer.checkpoint.checkpoint import Skipped
from galore.trainer.common.errors import UserError
from galore.trainer.data.batch import Data, Progress, Result
from galore.trainer.data.prepare import read_data
from galore.trainer.data.tokens.tokenizer import id_bound
from galore.trainer.evaluate import score_held_out
from galore.trainer.losses.build import build_extra
from galore.trainer.losses.extra import About, ExtraLoss
from galore.trainer.machine.device import choose_threads
from galore.trainer.models.capacity import check_capacity
from galore.trainer.models.classifier import align_labels, head_modules, pad_with
from galore.trainer.models.isolation import isolate_documents
from galore.trainer.models.rope.rotary import hold_length, set_rope
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.schema.train import EvalMode
from galore.trainer.tasks.glue import TASKS
from galore.trainer.trained.runmodel import StoredModel, load_run_model


@dataclass(frozen=True)
class Scored:
    """The result, and what was scored: `origin` is the checkpoint or model, `step` None if it was no run.

    `notes` is what the user should know of the data.
    """

    result: Result
    origin: str
    step: int | None
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()


def evaluate_stored(
    path: str,
    loaded: LoadedRecipe | None = None,
    *,
    device: str = "cpu",
    mode: EvalMode | None = None,
    max_tokens: int | None = None,
    checkpoint: str | None = None,
    progress: Progress | None = None,
) -> Scored:
    """Score the model `path` (run directory, folder or hub name) on what a recipe holds out.

    Args:
        loaded: the recipe whose data, batch size and `eval` section are used; None takes the run's own.
        mode: None takes the recipe's `eval.mode`.
        max_tokens: None takes the recipe's `eval.max_tokens`.
        checkpoint: of a run: newest, best or a step.

    Raises:
        UserError: nothing to load, a plain model without a recipe, or data that does not fit the model.
    """
    stored = load_run_model(path, device, checkpoint)
    recipe, data = held_out(stored, loaded, progress)
    how = {"mode": mode or recipe.eval.mode, "max_tokens": max_tokens or recipe.eval.max_tokens}
    asked = recipe.model_copy(update={"eval": recipe.eval.model_copy(update=how)})
    extra, untold = _extra(stored, recipe, data, device, Path.cwd() if loaded is None else loaded.base_dir)
    result = score_held_out(stored.model, data, asked, extra=extra)
    notes = (*data.notes, *_other_data(data, stored, recipe), *untold)
    return Scored(result, stored.origin, stored.step, stored.skipped, notes)


def held_out(stored: StoredModel, loaded: LoadedRecipe | None, progress: Progress | None = None) -> tuple[Recipe, Data]:
    """The recipe whose data the model is scored on, and the data. The model gets what the recipe says of its positions.

    Raises:
        UserError: see `evaluate_stored`.
    """
    recipe, base_dir = _recipe(stored, loaded)
    choose_threads(recipe.train.num_threads)
    _check_head(stored, recipe)
    set_positions(stored, loaded)
    data = read_data(for_model(recipe, stored), base_dir, progress)
    check_tokenizer(data, stored)
    check_capacity(stored.model.config, len(stored.tokenizer), recipe.data.max_length)
    take_rows(stored, recipe, data.tokenizer.pad_token_id)
    if recipe.data.isolates:
        isolate_documents(stored.model)
    return recipe, data


def take_rows(stored: StoredModel, recipe: Recipe, pad: int | None) -> None:
    """Let the model take rows of any length as a run of `recipe` does: pad them, and rotate as in its longest ones."""
    if recipe.data.task is not None:
        pad_with(stored.model.config, pad)
    hold_length(stored.model, recipe.data.max_length)


def _extra(
    stored: StoredModel, recipe: Recipe, data: Data, device: str, base_dir: Path
) -> tuple[ExtraLoss | None, list[str]]:
    """The second loss that the run was trained on, where `recipe` has it; or why it is not scored."""
    if stored.recipe is None or not recipe.extra_loss.is_on or recipe.extra_loss != stored.recipe.extra_loss:
        return None, []
    size = id_bound(data.tokenizer)
    try:
        extra = build_extra(About(recipe, stored.model, device, base_dir, size, data.tokenizer))
    except UserError as error:
        return None, [f"the extra loss {recipe.extra_loss.name} is not scored: {error.what}"]
    if extra is not None and extra.module is not None:
        extra.module.load_state_dict(dict(stored.beside))
    return extra, []


def set_positions(stored: StoredModel, loaded: LoadedRecipe | None) -> None:
    """Scale the rotary positions of the model as `loaded` says, where that is another recipe than its own."""
    rope = None if loaded is None else loaded.recipe.model.rope
    own = None if stored.recipe is None else stored.recipe.model.rope
    if loaded is not None and rope is not None and rope != own:
        set_rope(stored.model, rope, loaded.base_dir)


def _recipe(stored: StoredModel, loaded: LoadedRecipe | None) -> tuple[Recipe, Path]:
    if loaded is not None:
        return loaded.recipe, loaded.base_dir
    if stored.recipe is None:
        raise UserError(
            f"{stored.origin} is a model, not a run: it has no held-out text of its own",
            fix="name a recipe for the data with --recipe",
        )
    return stored.recipe, Path.cwd()  # the paths of a resolved recipe are absolute


def for_model(recipe: Recipe, stored: StoredModel) -> Recipe:
    """The recipe with the data of `recipe` and the tokenizer of the model, with the tokens and template that it has.

    A run reads its own recipe unchanged, so that the data it prepared for training is found in the cache.
    """
    if recipe == stored.recipe:
        return recipe
    tokenizer = str(stored.run.tokenizer.absolute()) if stored.run is not None else stored.origin
    template = recipe.data.chat_template if stored.tokenizer.chat_template is None else None
    data = recipe.data.model_copy(update={"tokenizer": tokenizer, "chat_template": template})
    known = stored.tokenizer.get_vocab()
    kept = recipe.model.modalities if all(each in known for each in recipe.model.tokens_to_add) else []
    model = recipe.model.model_copy(update={"new_tokens": kept})
    return recipe.model_copy(update={"data": data, "model": model})


def _check_head(stored: StoredModel, recipe: Recipe) -> None:
    """A classifier is scored on the task it was trained for, or one with the same labels; a causal model on text."""
    task, classifies = recipe.data.task, bool(head_modules(stored.model))
    if (task is not None) != classifies:
        have, want = ("a classifier", "text to continue") if classifies else ("a causal model", f"the task {task}")
        raise UserError(
            f"{stored.origin} is {have}, and the recipe has {want}", fix="name another recipe with --recipe"
        )
    if task is None:
        return
    labels, known = stored.model.config.num_labels, TASKS[task].num_labels
    if labels != known:
        what = f"{stored.origin} tells {labels} labels apart, the task {task} has {known}"
        raise UserError(what, fix="name the recipe of its own task with --recipe")
    align_labels(stored.model, TASKS[task], stored.origin)


def check_tokenizer(data: Data, stored: StoredModel) -> None:
    """Raise UserError if the corpus of a run has changed since, and with it the tokenizer that is trained on it."""
    if data.tokenizer.get_vocab() != stored.tokenizer.get_vocab():
        raise UserError(
            "the tokenizer of the data is not the one the model was trained with: the corpus has changed since",
            where="data.tokenizer",
            fix="restore the corpus, or name a recipe whose held-out text to score with --recipe",
        )


def _other_data(data: Data, stored: StoredModel, recipe: Recipe) -> list[str]:
    """A note where the recipe of the run no longer gives the data that it was trained on."""
    if recipe != stored.recipe or stored.data is None or data.position().get("fingerprint") == stored.data:
        return []
    return [
        "the held-out text is not the run's own: its files have changed since, or it is of a galore that made other "
        "tokens of the same text"
    ]
