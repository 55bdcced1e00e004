"""The declarations of the optimizer family: torch-free, and what is declared there is all that anybody has to be told."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

from galore.kernels.family import Options, refresh_of, scale_of, transport_of


def test_neither_the_declarations_nor_a_recipe_need_torch() -> None:
    code = "import sys, galore.kernels.family, galore.trainer.recipe.load; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_defaults_that_depend_on_others() -> None:
    assert (scale_of(Options(), True), scale_of(Options(), False)) == (0.25, 1.0)
    assert (scale_of(Options(residual="fira"), True), scale_of(Options(residual="apollo"), True)) == (0.25, 1.0)
    assert scale_of(Options(scale=2.0), True) == 2.0
    assert transport_of(Options()) == "rotate"
    assert transport_of(Options(proj_type="random")) == transport_of(Options(convention="reference")) == "keep"
    assert transport_of(Options(proj_type="random", transport="reset")) == "reset"
    assert refresh_of(Options()) == refresh_of(Options(proj_type="dct")) == "delayed"
    assert refresh_of(Options(proj_type="svd")) == refresh_of(Options(residual="fira")) == "summed"
    assert refresh_of(Options(update="immediate")) == refresh_of(Options(proj_type="random")) == "first-micro-batch"
    assert refresh_of(Options(proj_type="svd", refresh="first-micro-batch")) == "first-micro-batch"


def test_every_option_says_what_it_means() -> None:
    assert all(each.metadata["description"] for each in dataclasses.fields(Options))
