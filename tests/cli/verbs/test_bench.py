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
    shown = CliRunner().invoke(app, ["kernels"]).stdout
    assert " ".join(shown.split()).count("predicted, not timed") == 2
    assert "All 224 matrices of LLaMA-7B, milliseconds per step" in shown
    assert "131,072 tokens" in shown

    for each in found["all"]:
        ones = {row["b"]: row["ours"] for row in found["rows"] if row["r"] == each["r"]}
        assert each["ours"] == pytest.approx((4 * 32 * ones[4096] + 3 * 32 * ones[11008]) / 1e3, rel=0.01)
        step = 6 * (32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32_000 * 4096) * 131_072 / (0.85 * 165.2e12)
        assert each["share of a step"] == pytest.approx(each["ours"] / 1e3 / step, abs=1e-4)
    assert [each["r"] for each in found["all"]] == [128, 256, 512, 1024]
    assert found["all"][-1]["share of a step"] < 0.01


@no_gpu
def test_tuning_without_a_gpu_is_refused():
    done = CliRunner().invoke(app, ["kernels", "--tune"])
    assert isinstance(done.exception, UserError)
    assert "no GPU" in str(done.exception)
