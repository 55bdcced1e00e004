"""The plain profile of `galore profile-memory`: verdict, plan, host and processes, on a screen or as one object."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import typer

from galore.cli.show.profilebeside import profile_as_json
from galore.cli.show.tables import say, say_pairs, screen

if TYPE_CHECKING:
    from galore.trainer.fit.advice import Advice
    from galore.trainer.fit.hostmemory import HostProfile
    from galore.trainer.fit.plan import Plan
    from galore.trainer.fit.ranks import Sent
    from galore.trainer.fit.shipped import Shipped
    from galore.trainer.memory.profile import Profile
    from galore.trainer.recipe.load import LoadedRecipe


@dataclass(frozen=True)
class Plain:
    """A recipe's profile on a card, one of `gpus`, in a machine of `ram` GiB where that is to be judged, too."""

    loaded: LoadedRecipe
    profile: Profile
    gpus: int = 1
    ram: float | None = None

    @property
    def in_parts(self) -> bool:
        """Whether each of several processes holds a part of the model."""
        return self.gpus > 1 and self.loaded.recipe.parallel.mode == "fsdp"

    @cached_property
    def host(self) -> HostProfile:
        """What the run needs of host memory."""
        from galore.trainer.fit.ranks import host_of_all

        return host_of_all(self.loaded, self.gpus)

    @property
    def on_host(self) -> bool:
        """Whether the machine holds that, where it is known."""
        return self.ram is None or self.host.fits(self.ram)

    @property
    def fits(self) -> bool | None:
        """Whether card and machine hold the run; None where it is not sure of the card."""
        return self.profile.fits if self.on_host else False

    def show(self) -> None:
        """All of it on the screen."""
        from galore.cli.show.dryrun import plan_lines, rank_lines
        from galore.cli.show.memory import show_profile
        from galore.trainer.parameters import assumptions

        show_profile(screen(), self.loaded, self.profile, assumptions(self.loaded))
        typer.echo()
        say_pairs(plan_lines(self._plan()))
        if (host := self._host()) is not None:
            from galore.cli.show.hostmemory import host_lines

            typer.echo()
            say_pairs(host_lines(host, self.ram))
        if self.gpus > 1:
            typer.echo()
            say_pairs(rank_lines(self._sent()))

    def as_json(self, advice: Advice | None, shipped: Shipped | None) -> dict[str, object]:
        """All of it, and what was tried to make it fit."""
        host = self._host()
        return {
            **profile_as_json(self.profile, self._plan(), advice, shipped),
            **({} if self.gpus == 1 else {"parallel": self._sent().as_json()}),
            **({} if host is None else {"host": host.as_json(self.ram)}),
        }

    def _plan(self) -> Plan:
        """The whole run; of several processes a step is as long as that of one, sums over them apart."""
        from galore.trainer.fit.duration import duration_on
        from galore.trainer.fit.plan import plan
        from galore.trainer.fit.ranks import of_one_rank
        from galore.trainer.parameters import dry_run

        costs, card = dry_run(self.loaded).costs, self.profile.card
        one = of_one_rank(self.loaded, self.gpus)
        step = duration_on(one, self.profile.trace, card, costs.needed_flops_per_token)
        shares = self.loaded.recipe.train.global_batch_size / one.recipe.train.global_batch_size
        return plan(self.loaded.recipe, costs, card.name, step and step.of(self.gpus, shares), self.gpus)

    def _host(self) -> HostProfile | None:
        """What the run needs of host memory; None where nothing waits there, and nobody asked."""
        return self.host if self.host.matters or self.ram is not None else None

    def _sent(self) -> Sent:
        from galore.trainer.fit.ranks import sent_by

        return sent_by(self.loaded, self.gpus, "fsdp" if self.in_parts else "ddp")


def say_before_a_search(shipped: Shipped | None, what: str) -> None:
    """A shipped recipe that fits already, and what is tried now."""
    from galore.cli.show.memory import gib

    typer.echo()
    if shipped is not None:
        by = f" by another method, {shipped.method}," if shipped.method else ""
        fits = f"and fits: {gib(shipped.profile.total.high)} GiB in total"
        say(f"The shipped recipe {shipped.name} trains the same model{by} {fits}.")
    say(what)
