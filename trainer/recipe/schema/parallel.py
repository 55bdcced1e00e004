"""A recipe's `parallel` section: how several processes share the work of one run."""

from __future__ import annotations

from typing import Literal

from galore.trainer.recipe.schema.section import Section, execution

ParallelMode = Literal["auto", "ddp"]


class ParallelSection(Section):
    """How the processes that torchrun started share a run. None of it changes what is computed."""

    mode: ParallelMode = execution(
        "auto",
        "auto: ddp where torchrun started several processes, else one process; ddp: each process holds the whole model and takes its share of every batch, and projected sums are added up",
    )
