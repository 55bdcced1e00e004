"""Generation settings that transformers will save: it refuses those that are of no use to each other."""

from __future__ import annotations

from typing import Any

from galore.trainer.common.errors import UserError

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
BEAMS = ("early_stopping", "length_penalty")
CACHE = ("cache_implementation", "cache_config")


def drop_idle(config: Any) -> None:
    """Unset what has no effect: how to draw where nothing is drawn, what rates beams where there is one, and so on.

    Raises:
        UserError: the settings contradict each other all the same.
    """
    idle: tuple[str, ...] = SAMPLING if config.do_sample is not True else ()
    idle += BEAMS if (config.num_beams or 1) == 1 else ()
    idle += CACHE if config.use_cache is False else ()
    idle += tuple(getattr(config, "extra_output_flags", ())) if config.return_dict_in_generate is not True else ()
    for name in idle:
        if hasattr(config, name):
            setattr(config, name, None)
    try:
        config.validate(strict=True)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"the generation settings of the model cannot be saved: {reason}",
            where="generation_config.json",
            fix="mend them in the model's folder; those of a run are in its folder model/",
        ) from error
