"""`galore bench kernels` says whether its times are measured or predicted, and refuses to tune without a GPU."""

import json

import pytest
import torch
from typer.testing import CliRunner

from galore.cli.verbs.bench import app
from galore.trainer.common.errors import UserError

pytest.importorskip("triton", reason="the kernels need the optional package triton")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here; without one this is the path")


@no_gpu
def test_without_a_gpu_times_are_predicted_and_it_says_so():
    done = CliRunner().invoke(app, ["kernels", "--json"])
    found = json.loads(done.stdout)
    assert "predicted, not timed" in found["evidence"]
    assert {(row["a"], row["b"], row["r"]) for row in found["rows"]} == {
        (4096, b, r) for b in (4096, 11008) for r in (128, 256, 512, 1024)
    }
    assert all(row["floor"] < row["ours"] < row["unfused"] < row["reference"] for row in found["rows"])
    assert "predicted, not timed" in " ".join(CliRunner().invoke(app, ["kernels"]).stdout.split())


@no_gpu
def test_tuning_without_a_gpu_is_refused():
    done = CliRunner().invoke(app, ["kernels", "--tune"])
    assert isinstance(done.exception, UserError)
    assert "no GPU" in str(done.exception)
