"""`galore profile-memory` from the command line to its last byte, on recipes that are traced in an instant."""

from __future__ import annotations

import errno
import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from galore.cli.show import profile as shown_profile
from galore.cli.verbs import profile as verb
from galore.trainer.common.errors import UserError
from galore.trainer.fit.shipped import Shipped
from galore.trainer.memory.categories import CATEGORIES, OVERHEAD
from galore.trainer.memory.profile import Bounds

GIB = 2**30

HUGE = "model.hidden_size=8192", "model.intermediate_size=28672", "model.num_attention_heads=64"


pytestmark = pytest.mark.usefixtures("traced_recipes")


def profile(galore: Any, *arguments: str) -> Any:
    shown = galore("profile-memory", *arguments)
    assert shown.exit_code == 0, shown.output
    return shown


# -- what is shown


def test_the_verdict_first_then_categories_totals_phases_and_holders(galore: Any) -> None:
    shown = profile(galore, "tiny.yaml", "--gpu", "rtx3090")
    assert shown.stdout.startswith("tiny on NVIDIA GeForce RTX 3090\n")
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert lines[0] == "tiny on NVIDIA GeForce RTX 3090"
    assert lines[1].startswith("Fits. Its total is ")
    assert "GiB of 23.56–23.70 GiB" in lines[1]
    assert re.match(r"\d+\.\d\d MiB are allocated at the peak: refresh step: update \(linalg_qr\)\.$", lines[2]), lines[
        2
    ]
    assert f" {lines[2].partition(' ')[0]} " in next(line for line in lines if "this run" in line), (
        "one name, one number"
    )
    assert "MiB allocated reserved total fits" in lines
    words = shown.stdout
    for name in (
        "weights",
        "optimizer states",
        "projectors",
        "workspaces",
        "CUDA context",
        "total",
        "as nvidia-smi shows",
    ):
        assert name in words
    assert "segments that grow (expandable_segments), this run" in words
    assert "segments of fixed size (PyTorch's default)" in words
    for step in ("first step", "ordinary step", "refresh step", "evaluation"):
        assert step in words
    assert "most is held by" in words
    assert "nothing" not in words, "no advice where it fits"
    assert "run 500 steps × 64 tokens = 32.0k tokens, padding included" in lines
    assert any(line.startswith("a step ") and "predicted, not measured" in line for line in lines)
    assert any(line.startswith("time ") for line in lines)
    assert shown.stderr == ""


def test_overrides_and_the_card_count(galore: Any) -> None:
    shown = profile(galore, "tiny.yaml", "optim.method=full", "train.expandable_segments=false", "--gpu", "24GB")
    assert shown.stdout.startswith("tiny on a GPU with 24 GB\n")
    assert "PyTorch's default), this run" in shown.stdout
    assert "projectors" not in shown.stdout
    assert "refresh step" not in shown.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_card_is_an_rtx_4090(galore: Any) -> None:
    found = json.loads(profile(galore, "tiny.yaml", "train.device=auto", "--json").stdout)
    assert (found["card"], found["card_assumed"]) == ("NVIDIA GeForce RTX 4090", "torch finds no GPU here")
    told = "The figures below are for one NVIDIA GeForce RTX 4090, since {}; `--gpu` names another card."
    for device, why in (("auto", "torch finds no GPU here"), ("cpu", "the recipe says train.device: cpu")):
        shown = profile(galore, "tiny.yaml", f"train.device={device}", "--no-advise").stdout.splitlines()
        assert shown[:2] == [told.format(why), "tiny on NVIDIA GeForce RTX 4090"]


# -- as JSON


def test_json_is_one_object_with_what_is_promised(galore: Any) -> None:
    shown = profile(galore, "tiny.yaml", "--gpu", "rtx4090", "--json")
    found = json.loads(shown.stdout)
    assert isinstance(found["peak_allocated_bytes"], int)
    assert set(found["peak_reserved_bytes"]) == {"default", "expandable"}
    assert found["peak_allocated_bytes"] <= min(found["peak_reserved_bytes"].values())
    assert found["limit_bytes"] == round(23.51 * GIB)
    assert (found["fits"], found["card_assumed"]) == (True, None)
    assert tuple(found["categories"]) == CATEGORIES + OVERHEAD
    assert sum(found["categories"].values()) == found["total_bytes"]
    assert found["total_bytes"] == found["peak_reserved_bytes"]["expandable"] + found["categories"]["cuda_context"]
    assert "advice" not in found
    assert found["plan"]["tokens"] == 500 * 64
    assert found["plan"]["seconds"][0] < found["plan"]["seconds"][1]
    assert shown.stderr == ""


def test_json_with_advice_where_it_does_not_fit(galore: Any) -> None:
    shown = profile(galore, "long.yaml", "--gpu", "1GB", "--json")
    found = json.loads(shown.stdout)
    assert found["fits"] is False
    assert found["total_bytes"] > found["limit_bytes"]
    assert [set(each) for each in found["advice"]] == [
        {"settings", "gained_bytes", "total_bytes", "fits", "cost"} for _ in found["advice"]
    ]
    assert found["advice"][0]["settings"][0].startswith("train.micro_batch_size=")
    assert found["settings_that_fit"]
    assert json.loads(profile(galore, "long.yaml", "--gpu", "1GB", "--json", *found["settings_that_fit"]).stdout)[
        "fits"
    ]
    assert shown.stderr == ""


# -- advice, and a recipe that fits


def test_fit_shows_the_advice_and_writes_a_recipe_that_fits(galore: Any) -> None:
    shown = profile(galore, "long.yaml", "--gpu", "1GB", "--fit", "fitting.yaml")
    assert "Does not fit." in shown.stdout
    assert "change, the least disruptive first" in shown.stdout
    assert "train.gradient_checkpointing=true" in shown.stdout
    assert "same results; one more forward: up to a third more time" in shown.stdout
    assert "One change is enough: train.micro_batch_size=" in shown.stdout
    assert shown.stderr == "wrote fitting.yaml\n"

    assert galore("recipes", "validate", "fitting.yaml").stdout == "fitting.yaml: ok\n"
    assert "# Resolved from long.yaml\n#   train.micro_batch_size=" in Path("fitting.yaml").read_text()
    assert json.loads(profile(galore, "fitting.yaml", "--gpu", "1GB", "--json").stdout)["fits"] is True


def test_files_are_there_before_anything_is_printed(galore: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def left(*_: Any) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(shown_profile.Plain, "show", left)
    monkeypatch.setattr("galore.cli.show.memory.show_comparison", left)
    assert galore("profile-memory", "tiny.yaml", "--fit", "fitting.yaml", "--timeline", "memory.html").exit_code == 1
    assert Path("fitting.yaml").is_file()
    assert Path("memory.html").is_file()
    pytest.importorskip("matplotlib")
    assert galore("profile-memory", "tiny.yaml", "--compare", "--picture", "bars.png").exit_code == 1
    assert Path("bars.png").is_file()


def test_the_verdict_stands_before_the_search_begins(galore: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def search(*_: Any) -> None:
        raise UserError("the search has begun")

    monkeypatch.setattr("galore.cli.verbs.profile._advice", search)
    shown = galore("profile-memory", "long.yaml", "--gpu", "1GB")
    assert "Does not fit. Its total is " in shown.stdout
    assert shown.stdout.splitlines()[-1].startswith("Trying what to change")
    assert "--no-advise" in shown.stdout
    assert "the search has begun" in shown.stderr


def test_a_shipped_recipe_of_the_same_model_is_named_before_the_search(
    galore: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other: Any = SimpleNamespace(total=Bounds(GIB, GIB))
    monkeypatch.setattr("galore.trainer.fit.shipped.shipped_that_fits", lambda *_: Shipped("llama-tiny", other))
    shown = profile(galore, "long.yaml", "--gpu", "1GB").stdout
    told = "The shipped recipe llama-tiny trains the same model and fits: 1.00 GiB in total.\nTrying what to change"
    assert told in shown
    found = json.loads(profile(galore, "long.yaml", "--gpu", "1GB", "--json").stdout)
    assert found["shipped_that_fits"] == {"recipe": "llama-tiny", "total_bytes": GIB, "other_method": None}
    refused = galore("profile-memory", "tiny.yaml", *HUGE, "--gpu", "2GB", "--fit", "fitting.yaml")
    assert refused.stderr.endswith("→ take the shipped recipe llama-tiny, or a smaller model\n")


def test_another_method_of_the_shipped_recipe_is_said(galore: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other: Any = SimpleNamespace(total=Bounds(GIB, GIB))
    found = Shipped("llama-tiny", other, "muon")
    monkeypatch.setattr("galore.trainer.fit.shipped.shipped_that_fits", lambda *_: found)
    shown = profile(galore, "long.yaml", "--gpu", "1GB").stdout
    assert "llama-tiny trains the same model by another method, muon, and fits: 1.00 GiB in total.\n" in shown
    told = json.loads(profile(galore, "long.yaml", "--gpu", "1GB", "--json").stdout)
    assert told["shipped_that_fits"]["other_method"] == "muon"
    refused = galore("profile-memory", "tiny.yaml", *HUGE, "--gpu", "2GB", "--fit", "fitting.yaml")
    assert "→ take the shipped recipe llama-tiny, whose method is another (muon), or a smaller" in refused.stderr


def test_no_advice_where_none_is_wanted(galore: Any) -> None:
    shown = profile(galore, "long.yaml", "--gpu", "1GB", "--no-advise").stdout
    assert "Does not fit." in shown
    assert "change, the least disruptive first" not in shown


def test_where_nothing_helps_it_is_said_and_no_recipe_is_written(galore: Any) -> None:
    refused = galore("profile-memory", "tiny.yaml", *HUGE, "--gpu", "2GB", "--fit", "fitting.yaml")
    assert refused.exit_code == 2
    assert "Nothing that was tried makes it fit, not even all of it together." in refused.stdout
    assert refused.stderr == "error: --fit: nothing tried makes it fit a GPU with 2 GB\n  → take a smaller model\n"
    assert not Path("fitting.yaml").exists()


def test_fit_of_what_fits_changes_nothing(galore: Any) -> None:
    settings = ("train.global_batch_size=4", "model.max_position_embeddings=64")
    shown = profile(galore, "tiny.yaml", *settings, "--gpu", "rtx4090", "--fit", "same.yaml")
    assert "Room for: train.micro_batch_size=4, or data.max_length=64" in shown.stdout
    before, after = (galore("recipes", "show", *each).stdout for each in (("tiny.yaml", *settings), ("same.yaml",)))
    assert [line for line in before.splitlines() if line[:1] != "#"] == [
        line for line in after.splitlines() if line[:1] != "#"
    ]


def test_a_run_that_fits_is_told_what_it_has_room_for(galore: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ("tiny.yaml", "train.global_batch_size=4", "model.max_position_embeddings=32", "--gpu", "rtx4090")
    assert profile(galore, *small).stdout.endswith("\nRoom for: train.micro_batch_size=4\n")
    assert "Room for" not in profile(galore, *small, "--no-advise").stdout
    monkeypatch.setattr("galore.cli.verbs.profile.QUICK", 10)
    last = profile(galore, *small).stdout.splitlines()[-1]
    assert last.startswith("22.9 GiB to spare: --advise finds the largest micro-batch")
    assert last.endswith("in some ten traces like this one.")


def test_room_as_json(galore: Any) -> None:
    limits = ("train.global_batch_size=2", "model.max_position_embeddings=64")
    found = json.loads(profile(galore, "tiny.yaml", *limits, "--gpu", "rtx4090", "--advise", "--json").stdout)
    assert found["room_for"] == ["data.max_length=64"]
    assert found["advice"] == found["settings_that_fit"] == []


# -- over time


def test_timeline_as_a_page(galore: Any) -> None:
    shown = profile(galore, "tiny.yaml", "--gpu", "rtx4090", "--timeline", "memory.html")
    assert shown.stderr == "wrote memory.html\n"
    page = Path("memory.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert "tiny on NVIDIA GeForce RTX 4090" in page


def test_timeline_as_a_picture(galore: Any) -> None:
    pytest.importorskip("matplotlib")
    Path("sub").mkdir()
    profile(galore, "tiny.yaml", "--gpu", "rtx4090", "--json", "--timeline", "sub/memory.png")
    assert Path("sub/memory.png").read_bytes().startswith(b"\x89PNG")


# -- what is refused: with code 2, one line, and what to do; before anything is traced


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--gpu", ""], 'error: --gpu: no GPU called "" is known'),
        (["--gpu", "rtx4091"], 'error: --gpu: no GPU called "rtx4091" is known'),
        (["--timeline", "x.pdf"], "error: --timeline: x.pdf is neither .html nor .png"),
        (["--compare", "--picture", "x.svg"], "error: --picture: x.svg is no .png"),
        (["--fit", "x.json"], "error: --fit: x.json is no .yaml"),
        (["--timeline", "no/x.html"], "error: --timeline: there is no folder no"),
        (["--compare", "--picture", "no/x.png"], "error: --picture: there is no folder no"),
        (["--fit", "no/x.yaml"], "error: --fit: there is no folder no"),
        (["--picture", "x.png"], "error: --picture: --picture draws a comparison"),
        (["--compare", "--measure"], "error: --measure: --compare predicts and --measure runs"),
        (["--compare", "--timeline", "x.html"], "error: --timeline: goes with the plain profile only"),
        (["--measure", "--timeline", "x.html"], "error: --timeline: goes with the plain profile only"),
        (["--compare", "--fit", "x.yaml"], "error: --fit: goes with the plain profile only"),
        (["--force"], "error: --force: replaces what --fit names"),
        (["--ram", "64", "--compare"], "error: --ram: goes with the plain profile only"),
        (["--measure", "--gpu", "rtx3060"], "error: --measure: runs on what is here"),
        (["--no-advise", "--fit", "x.yaml"], "error: --fit: writes what a search finds"),
        (["--ram", "64", "--measure"], "error: --ram: goes with the plain profile only"),
        (
            ["--gpus", "2", "train.stream_weights=true"],
            "error: --gpus: blocks are streamed, and sums of gradients wait on the host, in one process only",
        ),
        (["optim.rnak=3"], "error: tiny.yaml: 1 error"),
        (["train.micro_batch_size=3"], "error: tiny.yaml: 1 error"),
    ],
)
def test_refused(galore: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str], line: str) -> None:
    monkeypatch.setitem(sys.modules, "galore.trainer.fit.predict", None)  # whoever imports it fails
    refused = galore("profile-memory", "tiny.yaml", *arguments)
    assert refused.exit_code == 2
    first, *rest = refused.stderr.splitlines()
    assert first == line
    assert all(each.startswith("  ") for each in rest)
    assert len(rest) <= 2
    assert refused.stdout == ""
    assert sorted(each.name for each in Path().iterdir()) == ["long.yaml", "tiny.yaml"]


def test_an_unasked_search_has_what_the_first_trace_leaves_of_its_time(
    galore: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced, asked = [], []

    def profile_on(*_: Any, **__: Any) -> Any:
        traced.append(time.monotonic())
        return SimpleNamespace(fits=False)

    def advice(loaded: Any, card: Any, gpus: int, until: float, ram: float | None) -> None:
        asked.append(until)

    monkeypatch.setattr("galore.trainer.fit.ranks.profile_on", profile_on)
    for name, does in (("_advice", advice), ("_shipped", lambda *_: None)):
        monkeypatch.setattr(verb, name, does)
    monkeypatch.setattr(shown_profile.Plain, "show", lambda *_: None)
    monkeypatch.setattr(verb, "_show_room", lambda *_: None)
    assert galore("profile-memory", "tiny.yaml", "--gpu", "rtx4090").exit_code == 0
    assert asked[0] <= traced[0] + verb.LONGEST


def test_a_recipe_that_is_not_there(galore: Any) -> None:
    refused = galore("profile-memory", "tinny.yaml")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "tinny.yaml: no such file\n    → did you mean tiny.yaml?" in refused.stderr


# -- as large as it is meant for

REPORT = """
import atexit, json, resource, sys
def report():
    use = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([use.ru_utime + use.ru_stime, use.ru_maxrss * 1024]), file=sys.stderr)
atexit.register(report)
from galore.cli.main import main
main()
"""
LLAMA_13B = ("hidden_size=5120", "intermediate_size=13824", "num_hidden_layers=40", "num_attention_heads=40")
LLAMA_70B = ("hidden_size=8192", "intermediate_size=28672", "num_hidden_layers=80", "num_attention_heads=64")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "seconds", "weights"),
    [
        ((), 20, 13.4e9),
        (LLAMA_13B, 30, 26.0e9),
        ((*LLAMA_70B, "num_key_value_heads=8"), 60, 137.9e9),
    ],
)
def test_large_models_in_seconds_and_below_a_gigabyte(
    shell: Any, model: tuple[str, ...], seconds: float, weights: float
) -> None:
    overrides = [f"model.{each}" for each in model]
    done = shell(
        "profile-memory",
        "llama-7b",
        *overrides,
        "--gpu",
        "rtx4090",
        "--json",
        "--no-advise",
        code=REPORT,
        timeout=10 * seconds,
        OMP_NUM_THREADS="1",
    )
    assert done.returncode == 0, done.stderr
    used, resident = json.loads(done.stderr.splitlines()[-1])
    assert json.loads(done.stdout)["categories"]["weights"] == pytest.approx(weights, rel=0.01)
    # Processor time, twice that of a quiet machine: half a core, shared with others, counts as a whole one.
    assert used < seconds
    assert resident < 1e9


# -- several processes


def test_gpus_show_what_each_sends(galore: Any) -> None:
    shown = profile(galore, "tiny.yaml", "--gpu", "rtx3090", "--gpus", "2", "--no-advise").stdout
    assert "2, ddp: the memory above is of each" in shown
    assert "by 10 GbE" in shown
    assert "nominal rate" in shown
    lines = [line for line in shown.splitlines() if line.startswith(("a step ", "time ", "energy ", "saved "))]
    assert len(lines) == 4
    assert all(line.endswith("without what the processes send") for line in lines)
    found = json.loads(profile(galore, "tiny.yaml", "--gpu", "rtx3090", "--gpus", "2", "--json", "--no-advise").stdout)
    assert found["parallel"]["size"] == 2
    assert found["plan"]["step"]["basis"].endswith("without what the processes send")
    assert sum(found["parallel"]["ordinary"].values()) < found["parallel"]["gradients"]


def test_a_machine_is_judged_beside_the_card(galore: Any) -> None:
    streamed = ("tiny.yaml", "--no-advise", "train.stream_weights=true", "model.num_hidden_layers=3")
    shown = profile(galore, *streamed).stdout
    assert "one with 8 GiB holds it; --ram judges another" in " ".join(shown.split())
    assert "blocks of weights" in shown
    assert "KiB of weights in each micro-batch" in shown or "MiB of weights in each micro-batch" in shown
    for ram, verdict in (("4", "does not fit"), ("16", "fits")):
        assert re.search(rf"host +{verdict}: 3.* GiB of {ram} GiB", profile(galore, *streamed, "--ram", ram).stdout)
        found = json.loads(profile(galore, *streamed, "--ram", ram, "--json").stdout)["host"]
        assert found["fits"] == (verdict == "fits")
        assert found["pinned_bytes"]["blocks of weights"] > 0
    assert "host" not in json.loads(profile(galore, "tiny.yaml", "--no-advise", "--json").stdout)


def test_what_the_machine_does_not_hold_is_no_recipe_that_fits(galore: Any) -> None:
    refused = galore("profile-memory", "tiny.yaml", "--gpu", "rtx4090", "--ram", "4", "--fit", "fitting.yaml")
    assert refused.exit_code == 2
    assert "nothing tried makes it fit NVIDIA GeForce RTX 4090 in a machine with 4 GiB of memory" in refused.stderr
    assert "or more memory than --ram says" in refused.stderr
    assert "Nothing that was tried makes it fit" in refused.stdout
    assert "no: host" in galore("profile-memory", "long.yaml", "--gpu", "1GB", "--ram", "4", "--advise").stdout
    assert not Path("fitting.yaml").exists()
    assert "Room for" not in profile(galore, "tiny.yaml", "--gpu", "rtx4090", "--ram", "4").stdout
    assert galore("profile-memory", "tiny.yaml", "--gpu", "rtx4090", "--ram", "8", "--fit", "a.yaml").exit_code == 0


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_what_processes_cannot_share_is_refused_before_anything_is_traced(
    galore: Any, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr("galore.trainer.fit.predict.predict", None)
    immediate = ("optim.update=immediate", "optim.refresh=first-micro-batch", "optim.max_grad_norm=null")
    refused = galore("profile-memory", "tiny.yaml", *immediate, "--gpus", "2", "--parallel", mode)
    assert refused.exit_code == 2
    assert "optim.update: immediate applies each gradient in the backward" in refused.stderr


def test_what_one_of_several_processes_has_room_for_is_within_its_share(galore: Any) -> None:
    sizes = ("train.global_batch_size=8", "train.micro_batch_size=2", "data.max_length=32")
    shown = profile(galore, "tiny.yaml", *sizes, "--gpu", "rtx3090", "--gpus", "2", "--advise").stdout
    assert "train.micro_batch_size=4" in shown
    assert "train.micro_batch_size=8" not in shown


def test_gpus_go_with_the_plain_profile(galore: Any) -> None:
    shown = galore("profile-memory", "tiny.yaml", "--gpus", "2", "--compare")
    assert shown.exit_code == 2
    assert "leave out --compare" in shown.stderr


# -- a network by its name


def test_a_model_by_name_brings_a_recipe_along_and_overrides_may_follow(galore: Any) -> None:
    shown = profile(galore, "--model", "smollm2-135m", "optim.rank=8", "model.vocab_size=64", "--no-advise")
    first, second = shown.stdout.partition("\nsmollm2-135m, GaLore r=8,")[2].splitlines()[:2]
    assert "as llama-7b-24gb, on " in first + second


def test_a_method_by_name_takes_the_place_of_the_recipe_s(galore: Any) -> None:
    shown = profile(galore, "tiny.yaml", "--method", "full-8bit", "--json", "--no-advise")
    assert json.loads(shown.stdout)["categories"]["projectors"] == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--model", "llama2-7b"), "did you mean llama-2-7b or"),
        (("--model", "optim.rank=8"), "--model: no dimensions are known of 'optim.rank=8'"),
        (("--model", "llama-3-8b", "tinny.yaml"), "neither a shipped recipe nor a file|no such file"),
        (("tiny.yaml", "--method", "loraa"), "--method: there is no method 'loraa'"),
        (("--method", "lora"), "names neither a recipe nor a model"),
        ((), "names neither a recipe nor a model"),
    ],
)
def test_what_is_named_wrongly_is_refused_before_anything_is_traced(galore: Any, arguments: Any, told: str) -> None:
    refused = galore("profile-memory", *arguments)
    assert refused.exit_code == 2
    assert re.search(told, refused.stderr)
