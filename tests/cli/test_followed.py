"""What a refusal of files, models, disks and options says to do, done to the letter: the refusal is gone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from galore.cli.main import app
from galore.trainer import recorder as record
from galore.trainer.machine.hardware import Peak
from galore.trainer.record.shown import report

Act = Callable[[Path], object]
TINY = (
    "model.hidden_size=32 model.intermediate_size=48 model.num_hidden_layers=2 model.num_attention_heads=2 "
    "model.max_position_embeddings=64 data.source=local data.path=text data.cache_dir=cache "
    "data.tokenizer_vocab_size=300 data.max_length=32 data.validation_fraction=0.1 optim.rank=4 train.device=cpu "
    "train.max_steps=1 train.global_batch_size=2 train.micro_batch_size=2 eval.eval_steps=null eval.sample_prompt=null"
)
TRAIN = f"train demo {TINY} --output-dir new"
STORED = TRAIN + " model.name_or_path=model data.tokenizer=model"
INSTRUCT = " data.path=talk data.prompt_field=ask data.response_field=answer"


class Case(NamedTuple):
    """`words` are refused once `harm` is done, in words that `told` finds; with `mend` done and `then` typed, no more.

    `then`: words in place of those of the same key, or added; `a>b` puts b in the place of a; `{1}` is what the first
    group of `told` found.
    """

    words: str
    told: str
    then: str = ""
    harm: Act | None = None
    mend: Act | None = None


def setting(file: str, **values: object) -> Act:
    """Keys of a JSON file; None takes one out."""

    def act(here: Path) -> None:
        path = here / file
        config = json.loads(path.read_text()) | values
        path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))

    return act


def text(file: str, content: str | bytes) -> Act:
    def act(here: Path) -> None:
        (here / file).parent.mkdir(exist_ok=True)
        (here / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return act


def delete(*names: str) -> Act:
    def act(here: Path) -> None:
        for path in (here / name for name in names):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return act


def rename(old: str, new: str) -> Act:
    return lambda here: (here / old).rename(here / new)


def both(*acts: Act) -> Act:
    return lambda here: [act(here) for act in acts]


def tensors(**changes: Callable[[dict[str, torch.Tensor]], torch.Tensor | None]) -> Act:
    """Of the stored model, each by its name with `__` for dots."""

    def act(here: Path) -> None:
        file = here / "model/model.safetensors"
        held = load_file(file)
        for name, change in changes.items():
            held.pop(name.replace("__", "."), None)
            if (made := change(held)) is not None:
                held[name.replace("__", ".")] = made
        save_file(held, file, {"format": "pt"})

    return act


def to_pickle(here: Path) -> None:
    file = here / "model/model.safetensors"
    torch.save(load_file(file), here / "model/pytorch_model.bin")
    file.unlink()


def from_pickle(here: Path) -> None:
    AutoModelForCausalLM.from_pretrained(here / "model").save_pretrained(here / "model")


def to_adapter(here: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = AutoModelForCausalLM.from_pretrained(here / "model")
    get_peft_model(base, LoraConfig(target_modules=["q_proj"])).save_pretrained(here / "adapter")


def wider(here: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(here / "model")
    tokenizer.add_tokens(["|more|"])
    tokenizer.save_pretrained(here / "wider")


def merged(here: Path) -> None:
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(here / "model")
    PeftModel.from_pretrained(base, here / "adapter").merge_and_unload().save_pretrained(here / "merged")


UNSEALED = delete("model/galore-manifest.json")
TALK = "".join(json.dumps({"ask": f"why {n}", "answer": f"because {n}"}) + "\n" for n in range(60))
LAST_ONLY = "{% for m in messages %}{{ m.content if loop.last else '#' }}{% endfor %}{{ eos_token }}"
CASES = {
    "export: folder in use": Case("export run model", "choose a folder that does not exist yet", "model>out"),
    "run there: resume": Case(TRAIN, "add --resume", "--resume", rename("run", "new")),
    "folder in use": Case(TRAIN, "choose another --output-dir", "new>newer", text("new/mine.txt", "x")),
    "eval: no recipe": Case("eval model", "with --recipe", "--recipe run/recipe.yaml"),
    "eval: two runs": Case("eval runs", "name one of them: (\\S+)", "runs>{1}",
                           both(lambda here: shutil.copytree(here / "run", here / "runs/a"), rename("run", "runs/b"))),
    "eval: no checkpoint": Case("eval run", "train on with --resume", "", delete("run/checkpoints"),
                                lambda here: typed("train run/recipe.yaml --output-dir run --resume")),
    "eval: model/ of a run": Case("eval run", "with --resume, which writes model/ and tokenizer/ anew", "",
                                  setting("run/model/config.json", rms_norm_eps=0.5),
                                  lambda here: typed("train run/recipe.yaml --output-dir run --resume")),
    "export changed": Case(STORED, "delete galore-manifest.json", "", setting("model/config.json", rms_norm_eps=0.5),
                           UNSEALED),
    "export damaged": Case("eval model --recipe run/recipe.yaml", "export it again", "",
                           text("model/model.safetensors", "x"),
                           both(delete("model"), lambda here: typed("export run model"))),
    "positions": Case(STORED + " data.max_length=128", "set data.max_length to (\\d+) or less", "data.max_length={1}"),
    "rows": Case(STORED + " data.tokenizer=wider", "model.new_tokens='(\\S+)' gives", "model.new_tokens={1}",
                 wider),
    "fewer rows: out": Case(STORED + " model.vocab_size=299", "leave model.vocab_size out", "model.vocab_size=299>"),
    "room": Case(TRAIN + " model.vocab_size=200", "set it to (\\d+) or more, or to null", "model.vocab_size={1}"),
    "no weights": Case(STORED, "set model.random_init: true", "model.random_init=true", both(UNSEALED,
                       delete("model/model.safetensors"))),
    "pickle": Case(STORED, "convert it once to safetensors with save_pretrained", "", both(UNSEALED, to_pickle),
                   from_pickle),
    "adapter": Case(STORED + " model.name_or_path=adapter", "merge_and_unload", "model.name_or_path=merged",
                    to_adapter, merged),
    "tied: two": Case(STORED, "set tie_word_embeddings: false", "",
                      both(UNSEALED, setting("model/config.json", tie_word_embeddings=True)),
                      setting("model/config.json", tie_word_embeddings=False)),
    "size": Case(STORED, "write the number that the stored weights have", "",
                 both(UNSEALED, setting("model/config.json", vocab_size=-3)), setting("model/config.json",
                 vocab_size=300)),
    "flash": Case(TRAIN + " model.attn_implementation=flash_attention_2", "set model.attn_implementation: (\\w+)",
                  "model.attn_implementation={1}"),
    "no such layer": Case(TRAIN + " optim.target_modules=[nope]", "name parts of the layers' paths",
                          "optim.target_modules=[mlp]"),
    "checkpointing": Case(TRAIN + " train.gradient_checkpointing=9", "a number up to (\\d)",
                          "train.gradient_checkpointing={1}"),
    "suffix": Case(TRAIN + " data.path=text/a.dat", "set data.format, or use one of (\\.\\w+)", "data.format=txt",
                   rename("text/a.txt", "text/a.dat")),
    "bad row": Case(TRAIN + INSTRUCT + " data.on_bad_rows=error", "set data.on_bad_rows: skip",
                    "data.on_bad_rows=skip", text("talk/b.jsonl", TALK + "{\n")),
    "Latin-1": Case(TRAIN + " data.path=latin", "(data\\.encoding=\\w+) reads them", "{1}", text("latin/a.txt",
                             "".join(f"un caf\xe9 et {n} autres\n\n" for n in range(300)).encode("latin-1"))),
    "wide letters": Case(TRAIN + " data.path=wide", "(data\\.encoding=\\S+) reads them", "{1}", text("wide/a.txt",
                         "\n\n".join(f"the {n} of a {n * n} and {n % 7}" for n in range(300)).encode("utf-16"))),
    "held out: more": Case(TRAIN + " data.validation_fraction=0.001", "data.validation_fraction.*?(0\\.\\d+)",
                           "data.validation_fraction={1}"),
    "cache": Case(TRAIN, "set data.cache_dir", "data.cache_dir=other", both(delete("cache"), text("cache", "x"))),
    "report": Case(TRAIN + " --resume", "move it away", "", both(rename("run", "new"), delete("new/report.md"),
                   lambda here: (here / "new/report.md").mkdir()),
                   rename("new/report.md", "moved")),
    "other mathematics: anew": Case(TRAIN + " --resume optim.rank=5", "start anew in another --output-dir",
                                    "new>newer --resume>", rename("run", "new")),
    "sample: none": Case(TRAIN + " eval.sample_prompt=the eval.sample_tokens=64", "set eval.sample_prompt: null",
                         "eval.sample_prompt=null"),
    "loss on all": Case(TRAIN + INSTRUCT + " data.tokenizer=model", "set data.loss_on: all", "data.loss_on=all",
                        both(UNSEALED, text("model/chat_template.jinja", LAST_ONLY))),
    "generate: tokens": Case("generate model --prompt the --max-new-tokens 99", "ask for fewer new tokens", "99>9"),
    "generate: chat": Case("generate model --prompt the --max-new-tokens 2 --chat", "continue the text without",
                           "--chat>"),
    "card": Case("profile-memory demo --gpu nope", '"(24GB)"', "nope>{1}"),
    "epochs": Case(TRAIN + " data.source=hub data.path=hub data.streaming=true train.max_steps=null train.num_train_epochs=1",
                   "set train.max_steps", "train.max_steps=1 train.num_train_epochs=1>"),
    "stream: validation": Case(TRAIN + " data.source=hub data.path=hub data.validation_path=text",
                               "set data.validation_split or",
                               "data.validation_split=validation data.validation_fraction=0 data.validation_path=text>"),
}  # fmt: skip


def typed(words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, words.split(), prog_name="galore")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def followed(words: str, then: str) -> str:
    given = words.split()
    for word in then.split():
        if ">" in word:
            old, new = word.split(">")
            given[given.index(old) : given.index(old) + 1] = [new] if new else []
            continue
        key = word.partition("=")[0] + "="
        given = [each for each in given if not ("=" in word and each.startswith(key))] + [word]
    return " ".join(given)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, an export of it, its text and a chat."""
    here = tmp_path_factory.mktemp("scene")
    (here / "text").mkdir()
    (here / "text/a.txt").write_text("\n\n".join(f"the {n} of a {n * n} and the {n % 7} in it" for n in range(400)))
    text("talk/a.jsonl", TALK)(here)
    for split in ("train", "validation"):
        text(f"hub/{split}.jsonl", "".join(json.dumps({"text": f"the {n} of {split} " * 9}) + "\n" for n in range(60)))(
            here
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        quiet(patch)
        for words in (TRAIN.replace("new", "run"), "export run model"):
            code, said = typed(words)
            assert code == 0, said
    return here


def quiet(patch: pytest.MonkeyPatch) -> None:
    """Nothing is timed and no picture drawn: both take most of a tiny run's time."""
    patch.setattr(record, "device_peak", lambda *_: Peak(1e12, "fixed", "cpu"))
    patch.setattr(report, "draw", lambda _: {})


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_it_says_to_do_helps(case: Case, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    shutil.copytree(scene, here)
    monkeypatch.chdir(here)
    monkeypatch.setenv("COLUMNS", "200")
    quiet(monkeypatch)
    if case.harm:
        case.harm(here)
    code, said = typed(case.words)
    assert code in (1, 2), said[-800:]
    told = re.search(case.told, said)
    assert told, said
    if case.mend:
        case.mend(here)
    words = followed(case.words, case.then.replace("{1}", told[1] if told.lastindex else ""))
    code, said = typed(words)
    assert code == 0, f"{words}: {said[-800:]}"
