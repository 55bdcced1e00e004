"""What a search for rotary factors is about: ways that are known, the space, a candidate as a recipe says it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from galore.trainer.common.errors import UserError
from galore.trainer.models.rope.scaling import by_kind_of_layer, own_parameters, pairs, scale_rope, trained_length
from galore.trainer.recipe.schema.rope import RopeSection
from galore.trainer.trained.longcontext.evolution import OVER, Candidate, Space, ascending


@dataclass(frozen=True)
class Problem:
    """What is searched for a model: the configuration of a candidate, those that are known, and the space."""

    base: PreTrainedConfig
    original: int
    factor: float
    short: bool
    space: Space

    @classmethod
    def of(cls, config: Any, length: int, start_tokens: tuple[int, ...] = (0,)) -> Problem:
        """The problem of a model and rows of `length`. Raises UserError where there is nothing to search."""
        own = own_parameters(config)
        original, longest = trained_length(config), config.get_text_config().max_position_embeddings
        short = length <= original
        if short and own["rope_type"] != "longrope":
            raise UserError(
                f"the model was trained at {original:,} tokens, and {length:,} are no more",
                where="--length",
                fix=f"search at more than {original:,}; short factors are for a model of type longrope",
            )
        # longrope of Phi-3 names none
        factor = float(own.get("factor") or longest / original) if short else length / original
        largest = max(own["long_factor"]) if short else OVER * factor
        return cls(config, original, factor, short, Space(largest, not short, (0,) if short else start_tokens))

    def section(self, candidate: Candidate) -> RopeSection:
        """The candidate as a recipe says it."""
        own = own_parameters(self.base)
        factors = {"long_factor": list(candidate.factors), "short_factor": [1.0] * len(candidate.factors)}
        if self.short:
            factors = {"long_factor": own["long_factor"], "short_factor": list(candidate.factors)}
        return RopeSection(
            type="longrope",
            factor=self.factor,
            original_max_position_embeddings=self.original,
            attention_factor=candidate.attention,
            start_tokens=candidate.start or None,
            **factors,
        )

    def config(self, rope: RopeSection) -> PreTrainedConfig:
        config = copy.deepcopy(self.base)
        scale_rope(config, rope, Path(), built=False)
        return config

    def usual(self) -> dict[str, RopeSection]:
        """The ways that a search is compared with; of short sequences, the factors as they are."""
        if self.short:
            return {"as it is": self.section(self._as_it_is())}
        settings: dict[str, Any] = {"factor": self.factor, "original_max_position_embeddings": self.original}
        return {
            "none": RopeSection(type="default", **settings),
            "linear": RopeSection(type="linear", **settings),
            "dynamic": RopeSection(type="dynamic", **settings),
            "yarn": RopeSection(type="yarn", **settings),
        }

    def usual_factors(self) -> dict[str, list[float]]:
        """What the usual ways slow each pair of dimensions by; of `dynamic`, at the whole length."""
        if self.short:
            return {"as it is": [float(each) for each in own_parameters(self.base)["short_factor"]]}
        usual = self.usual()
        plain = _rotation(self.config(usual["linear"]))[0] * self.factor
        length = round(self.original * self.factor)
        rotations = {name: _rotation(self.config(usual[name]), length)[0] for name in ("linear", "dynamic", "yarn")}
        return {name: (plain / each).tolist() for name, each in rotations.items()}

    def first(self) -> list[Candidate]:
        """What the evolution begins with: YaRN, NTK and linear as factors; of short sequences none, and long ones."""
        if self.short:
            own = self._as_it_is()
            long = ascending(own_parameters(self.base)["long_factor"], self.space.largest)
            return [own, Candidate((1.0,) * len(long), own.attention), Candidate(long, own.attention)]
        longrope = float(_rotation(self.config(self.section(self._linear(1.0))))[1])
        attention = float(_rotation(self.config(self.usual()["yarn"]))[1])
        usual = [ascending(each, self.space.largest) for each in reversed(self.usual_factors().values())]
        scales = dict.fromkeys(round(each, 4) for each in (attention, longrope, 1.0))
        return [Candidate(factors, scale) for factors in usual for scale in scales]

    def _linear(self, attention: float) -> Candidate:
        return Candidate(ascending([self.factor] * pairs(self.base), self.space.largest), attention)

    def _as_it_is(self) -> Candidate:
        own = own_parameters(self.base)
        return Candidate(tuple(float(each) for each in own["short_factor"]), float(_rotation(self.base)[1]))


def _rotation(config: PreTrainedConfig, length: int | None = None) -> tuple[Tensor, float]:
    """Frequencies and attention factor, as transformers computes them of a configuration."""
    text = config.get_text_config()
    kind = "full_attention" if by_kind_of_layer(text.rope_parameters) else None
    found: tuple[Tensor, float] = ROPE_INIT_FUNCTIONS[own_parameters(config)["rope_type"]](
        text, seq_len=length, layer_type=kind
    )
    return found
