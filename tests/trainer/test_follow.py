"""Runs of two processes against runs of one: text, instructions, a task with labels; resumed, refused, bereft."""

import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import architectures
import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from galore.trainer.common.errors import UserError
from galore.trainer.common.format import size
from galore.trainer.data.tokens.tokenizer import trained_tokenizer
from galore.trainer.follow import telling
from galore.trainer.parallel.group import Group, RankLost, refuse_in_group
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.schema.parallel import ParallelSection
from galore.trainer.record.metrics import SILENT
from galore.trainer.record.rundir import RunDir
from galore.trainer.record.shown import report
from galore.trainer.record.snapshots import read_snapshots
from galore.trainer.run import run_training

SCRIPT = Path(__file__).with_name("two_runs.py")
CARRY_OUT = runpy.run_path(str(SCRIPT))["carry_out"]
TINY = [
    "model.hidden_size=32", "model.intermediate_size=48", "model.num_hidden_layers=2", "model.num_attention_heads=4",
    "model.dtype=float32", "data.max_length=32", "optim.rank=8", "train.global_batch_size=4",
    "train.micro_batch_size=1", "train.device=cpu", "eval.sample_prompt=null",
]  # fmt: skip
STEPS = [
    "train.max_steps=6",
    "train.save_steps=3",
    "eval.eval_steps=3",
    "eval.max_tokens=500",
    "optim.update_proj_gap=2",
]
SHARED = [
    "text", "uneven", "instructions", "isolated", "labels", "streamed", "stages", "aligned",
    "distilled", "routed",
]  # fmt: skip
KEPT = ["train.snapshot_parameters=[norm]", "train.snapshot_steps=2"]
BESIDE = ("loss_nats_by_modality", "extra_loss", "z_loss", "router_loss")
WITH = {
    "aligned": ["loss_nats_by_modality", "extra_loss", "z_loss"],
    "distilled": ["extra_loss"],
    "routed": ["router_loss"],
}
RESUMED = ["two then two", "two then one", "one then two"]


def started(count, *command, **more):
    """`count` ranks of a command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    each = [os.environ | where | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [subprocess.Popen([sys.executable, *command], env=env, **more) for env in each]


def ended(ranks, within):
    try:
        return [rank.wait(within) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def rows(out, kind):
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["kind"] == kind]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("follow")


@pytest.fixture(scope="module")
def recipes(root, tiny_roberta, chat_tokenizer):
    """Name → recipe and overrides of every kind of data."""
    chats = [{"instruction": f"Say {n}", "output": "yes " * (1 + n % 7)} for n in range(60)]
    (root / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    task = root / "glue" / "sst2"
    task.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        lines = [{"sentence": f"the film was {'very ' * (n % 5)}good", "label": n % 2, "idx": n} for n in range(24)]
        (task / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    roberta = shutil.copytree(tiny_roberta, root / "roberta")  # dropout draws other numbers on every rank
    config = json.loads((roberta / "config.json").read_text())
    config |= dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"), 0.0)
    (roberta / "config.json").write_text(json.dumps(config))
    tiny = ["demo", [*TINY, *STEPS]]
    chat = {
        "source": "local", "path": str(root / "chat.jsonl"), "prompt_field": "instruction", "response_field": "output",
        "tokenizer": str(chat_tokenizer), "max_length": 64, "validation_fraction": 0.2,
        "cache_dir": str(root / "cache"),
    }  # fmt: skip
    instructed = yaml.safe_load(load_recipe(*tiny).text) | {"data": chat}
    instructed["model"]["vocab_size"] = 300
    (root / "instructions.yaml").write_text(yaml.safe_dump(instructed))
    labels = [
        f"model.name_or_path={roberta}", f"data.path={root / 'glue'}", "data.task=sst2", "data.max_length=32",
        "train.num_train_epochs=2", "train.global_batch_size=8", "train.micro_batch_size=4", "train.device=cpu",
        "model.dtype=float32", "optim.update_proj_gap=3",
    ]  # fmt: skip
    (root / "hub").mkdir()
    for split, first, count in (("train", 20, 200), ("validation", 0, 20)):
        lines = [
            {"text": f"document {n} is of {n % 13} words and {'very ' * (n % 9)}long"} for n in range(first, count)
        ]
        texts = "".join(json.dumps(line) + "\n" for line in lines)
        (root / "hub" / f"{split}-00000-of-00001.jsonl").write_text(texts)
    sources = f"[{{name: {root / 'hub'}, weight: 2}}, {{path: {root / 'chat.jsonl'}, text_field: instruction}}]"
    stream = [
        "data.source=local", f"data.sources={sources}", "data.shuffle_buffer_size=16", f"data.tokenizer={chat_tokenizer}",
        "model.vocab_size=300", "data.validation_fraction=0.2",
    ]  # fmt: skip
    beside = second_losses(root)
    rope = "model.rope={type: dynamic, factor: 2, original_max_position_embeddings: 16}"
    skips = "train.position_skips={target_length: 128}"
    sampled = ["eval.sample_prompt=The", "eval.sample_tokens=20"]  # rank 0 alone makes them
    return {
        "streamed": [tiny[0], [*tiny[1], *stream]],
        "stages": [tiny[0], [*tiny[1], rope, *sampled, "train.length_stages=[{max_length: 16, steps: 3}]", *KEPT]],
        **{name: [str(root / "beside.yaml"), overrides] for name, overrides in beside.items()},
        "text": tiny,
        "routed": [
            tiny[0],
            [*tiny[1], *architectures.routed(root / "mixtral", 300), f"data.tokenizer={chat_tokenizer}"],
        ],
        "uneven": ["demo", [*tiny[1], "train.global_batch_size=5", "train.micro_batch_size=5", skips]],
        "instructions": [str(root / "instructions.yaml"), []],
        "isolated": [str(root / "instructions.yaml"), ["data.isolate_documents=true"]],
        "labels": ["roberta-glue-galore-r4", labels],
        "immediate": [
            "demo",
            [*tiny[1], "optim.update=immediate", "optim.max_grad_norm=null", "train.micro_batch_size=4"],
        ],
        "too few rows": ["demo", [*tiny[1], "train.global_batch_size=1", "train.micro_batch_size=1"]],
    }


def second_losses(root):
    """Overrides of `beside.yaml`, whose held-out rows are one batch: a rank has nothing to score."""
    tokenizer = trained_tokenizer(["four five six"] * 9, 270, root / "tokenizer", lambda *_: None)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(root / "teacher")
    tokenizer.save_pretrained(root / "teacher")
    pairs = []
    for n in range(100):
        row = {"parts": [{"image": [(n + 2 * k) % 6 for k in range(4)]}, {"text": f" {n % 6} at {n % 4}, {n}"}]}
        pairs.append(row if n % 5 == 0 else row | {"map": [[float(k == n % 4) for k in range(4)]]})
    (root / "pairs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in pairs))
    (root / "words.txt").write_text("\n\n".join(f"just some words {n} of text, and more" for n in range(100)))
    (root / "beside.yaml").write_text(f"""
model: {{{str(sizes)[1:-1]}, dtype: float32}}
data: {{path: words.txt, tokenizer: tokenizer, max_length: 32, validation_fraction: 0.1, cache_dir: cache}}
optim: {{method: galore, rank: 8, update_proj_gap: 2, learning_rate: 0.01, lr_scheduler_type: constant}}
train: {{max_steps: 4, global_batch_size: 5, micro_batch_size: 1, save_steps: 2, num_threads: 1, device: cpu}}
eval: {{eval_steps: 2, micro_batch_size: 100}}
""")
    codes = ["data.tokens_field=parts", f"data.path={root / 'pairs.jsonl'}", "model.new_tokens={image: 6}"]
    aligned = [
        "data.extra_field=map",
        "data.packing=paper",
        "extra_loss.name=attention_alignment",
        "extra_loss.layers=[0, -1]",
    ]
    return {
        "aligned": [*codes, *aligned, "train.loss_weights={image: 0.5}", "train.z_loss=1e-3"],
        "distilled": ["extra_loss.name=distillation", f"extra_loss.teacher={root / 'teacher'}"],
    }


@pytest.fixture(scope="module")
def found(root, recipes):
    """What each rank's jobs came to, and where one process carried out the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw", lambda history: {})
        for name in SHARED:
            recipe, overrides = recipes[name]
            alone = CARRY_OUT({"recipe": recipe, "overrides": overrides, "out": root / "one" / name}, None)
            assert "error" not in alone, alone
    jobs = {
        name: {"recipe": recipe, "overrides": overrides, "out": str(root / "two" / name)}
        for name, (recipe, overrides) in recipes.items()
    }
    jobs["two then two"] = jobs["streamed"] | {
        "out": str(root / "two" / "two then two"),
        "since": jobs["streamed"]["out"],
    }
    jobs["one then two"] = jobs["streamed"] | {
        "out": str(root / "two" / "one then two"),
        "since": str(root / "one/streamed"),
    }
    (root / "jobs").write_text(json.dumps(jobs))
    assert ended(started(2, SCRIPT, root / "jobs"), 200) == [0, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw", lambda history: {})
        CARRY_OUT(jobs["streamed"] | {"out": root / "two" / "two then one", "since": jobs["streamed"]["out"]}, None)
    return [json.loads((root / f"jobs.{rank}").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", SHARED)
def test_two_processes_train_what_one_does(root, found, name):
    one, two = root / "one" / name, root / "two" / name
    for kind, numbers in (("train", ("loss_nats", "grad_norm")), ("eval", ("loss_nats",))):
        pairs = list(zip(rows(one, kind), rows(two, kind), strict=True))
        assert pairs
        for alone, together in pairs:
            for key in ("step", "tokens", "targets", "sample_ids_crc32", "learning_rate"):
                assert alone.get(key) == together.get(key)
            for key in (*numbers, *(key for key in BESIDE if key in alone)):
                assert together[key] == pytest.approx(alone[key], rel=1e-6, abs=1e-6)
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert name not in WITH or set(WITH[name]) <= set(rows(two, "train")[0])


def test_snapshots_are_those_of_one_process(root, found):
    steps, alone = read_snapshots(root / "one" / "stages")
    assert steps == [2, 4, 6]
    together = read_snapshots(root / "two" / "stages")
    assert together[0] == steps
    torch.testing.assert_close(together[1], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_goes_on_in_another_number_of_processes(root, found, name):
    through, resumed = root / "one" / "streamed", root / "two" / name
    assert json.loads((resumed / "run.json").read_text())["resumes"][0]["step"] == 3
    for alone, on in zip(rows(through, "train"), rows(resumed, "train"), strict=True):
        assert on["loss_nats"] == pytest.approx(alone["loss_nats"], rel=1e-6)
        assert on["sample_ids_crc32"] == alone["sample_ids_crc32"]


def test_in_the_same_number_it_goes_on_to_the_bit(root, found):
    before, after = (root / "two" / name for name in ("streamed", "two then two"))
    for kind, key in (("train", "loss_nats"), ("train", "grad_norm"), ("eval", "loss_nats")):
        assert [row[key] for row in rows(after, kind)] == [row[key] for row in rows(before, kind)]
    for part in ("model", "optimizer"):
        name = next((before / "checkpoints").glob(f"step-*6/*{part}*.safetensors")).name
        files = [next((each / "checkpoints").glob(f"step-*6/{name}")) for each in (before, after)]
        assert len({each.read_bytes() for each in files}) == 1


def test_the_header_and_run_json_say_what_is_sent_and_it_is(root, found):
    told = json.loads((root / "two" / "text" / "run.json").read_text())["parallel"]
    assert (told["mode"], told["ranks"], told["backend"]) == ("ddp", 2, "gloo")
    sent = sum(told["sent_bytes_per_step"].values())
    assert found[0]["text"]["header"]["ranks"] == f"2 processes, gloo; {size(sent)} sent a step"
    assert "2 on each of 2 processes, in micro-batches of 1" in found[0]["text"]["header"]["batch"]
    assert "2 or 3 on each of 2 processes" in found[0]["uneven"]["header"]["batch"]
    assert found[0]["text"]["sent"]["sum"] >= 6 * sent
    assert found[0]["text"]["sent"] == found[1]["text"]["sent"]


@pytest.mark.parametrize(
    ("name", "where"), [("immediate", "optim.update"), ("too few rows", "train.global_batch_size")]
)
def test_what_cannot_be_shared_is_refused_once(found, name, where):
    first, second = found[0][name], found[1][name]
    assert (first["error"], first["code"]) == ("UserError", 2)
    assert first["text"].startswith(f"{where}: ")
    assert (second["error"], second["code"]) == ("ToldElsewhere", 2)


def test_ddp_asks_for_several_processes():
    recipe = load_recipe("demo", ["parallel.mode=ddp"]).recipe
    assert recipe.parallel == ParallelSection(mode="ddp")
    with pytest.raises(UserError, match="torchrun --nproc-per-node=N") as caught:
        refuse_in_group(recipe, None)
    assert caught.value.fix.endswith("set parallel.mode: auto")


def test_one_process_is_told_all_that_it_has_to_set_to_go_on_from_parts():
    recipe = load_recipe("demo", ["parallel.mode=fsdp", "parallel.checkpoints=parts"]).recipe
    with pytest.raises(UserError) as caught:
        refuse_in_group(recipe, None)
    assert caught.value.fix.endswith("set parallel.mode: auto and parallel.checkpoints: whole")


def test_what_ends_one_process_alone_is_told_to_nobody():
    with pytest.raises(UserError, match="wrong"), telling(None):
        raise UserError("wrong")


def test_that_the_folder_is_in_use_is_told_to_the_others(tmp_path):
    said = []

    class Heard(Group):
        def from_first(self, document=None):
            said.append(document)

    out = tmp_path / "run"
    with RunDir.create(out, False).locked(), pytest.raises(UserError, match="in use by another run") as caught:
        run_training(load_recipe("demo"), out, True, SILENT, group=Heard(0, 2))
    assert said == [{"ended": caught.value.exit_code}]


def test_what_ends_all_of_them_alike_is_told_where_the_others_are_gone_already():
    class Gone(Group):
        def from_first(self, document=None):
            raise RankLost("another ended")

    with pytest.raises(UserError, match="wrong"), telling(Gone(0, 2)):
        raise UserError("wrong")


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_rank_that_dies_ends_the_other_with_one_message_and_what_is_whole_is_saved(tmp_path, recipes, lost):
    recipe, overrides = recipes["text"]
    out = tmp_path / "run"
    more = ["train.max_steps=100000", "train.save_steps=50", "eval.eval_steps=null", "log.logging_steps=1000"]
    command = ["-m", "galore", "train", recipe, *overrides, *more, "--output-dir", out]
    ranks = started(2, *command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 100
    while not list(out.glob("checkpoints/step-*/manifest.json")) and time.monotonic() < until:
        time.sleep(0.05)
    ranks[lost].send_signal(signal.SIGKILL)
    said = ranks[1 - lost].communicate(timeout=60)[1]
    assert ended(ranks, 5)[1 - lost] == 1
    assert said.count("another of the 2 processes ended") == 1
    assert "Traceback" not in said
    state = json.loads((out / "run.json").read_text())
    if lost == 1:
        assert state["ended"]["as"] == "failed"
        last = max(int(each.name.removeprefix("step-")) for each in out.glob("checkpoints/step-*"))
        assert last == rows(out, "train")[-1]["step"]


@pytest.mark.slow
def test_a_rank_that_stands_still_ends_the_other(tmp_path, recipes):
    """As one whose machine vanished: its connections stay open."""
    recipe, overrides = recipes["text"]
    more = ["train.max_steps=100000", "eval.eval_steps=null", "log.logging_steps=1000", "parallel.heartbeat_timeout=10"]
    command = ["-m", "galore", "train", recipe, *overrides, *more, "--output-dir", tmp_path / "run"]
    ranks = started(2, *command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 100
    while not (tmp_path / "run/metrics.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(3)  # two signs of life
    ranks[1].send_signal(signal.SIGSTOP)
    try:
        said = ranks[0].communicate(timeout=60)[1]
    finally:
        ranks[1].kill()
    assert ended(ranks, 5)[0] == 1
    assert said.count("no sign of life for 10 seconds of rank 1 on ") == 1
    assert "Traceback" not in said
