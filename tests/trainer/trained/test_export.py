from __future__ import annotations

import json
import os
import shutil
import stat
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from galore.trainer.checkpoint import checkpoint
from galore.trainer.checkpoint.state import model_tensors
from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.common.lock import alone_in
from galore.trainer.data.batch import silent
from galore.trainer.data.tokens.tokenizer import load_tokenizer, trained_tokenizer
from galore.trainer.models.adapters.adapt import adapted
from galore.trainer.models.decoder import build_decoder
from galore.trainer.models.pretrained import load_pretrained, read_config
from galore.trainer.models.retnet.configuration_retnet import RetNetConfig
from galore.trainer.recipe.dump import dump_recipe
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.record.rundir import RunDir
from galore.trainer.trained import export as export_module
from galore.trainer.trained.export import ExportOptions, export
from galore.trainer.trained.onward.targets import TARGETS
from galore.trainer.trained.runmodel import load_run_model, save_model_files

IDS = torch.arange(30).view(2, 15)
WORDS = {f"w{i}": i for i in range(30)} | {"<end>": 30}


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel(WORDS, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")


def recipe(model: dict[str, Any], optim: dict[str, Any]) -> Recipe:
    dimensions = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return Recipe.model_validate(
        {
            "model": dimensions | {"dtype": "float32"} | model,
            "data": {"source": "local", "path": "secret/place.txt", "max_length": 16},
            "optim": {"rank": 4, "proj_type": "randomized"} | optim,
            "train": {"max_steps": 20, "global_batch_size": 4, "micro_batch_size": 4},
        }
    )


def make_run(path: Path, model: dict[str, Any] | None = None, optim: dict[str, Any] | None = None) -> torch.Tensor:
    """A run directory with checkpoints of steps 10 and 20; returns the logits of step 20."""
    settings = recipe(model or {}, optim or {})
    run = RunDir.create(path, resume=False)
    run.recipe.write_text(dump_recipe(settings))
    run.write_facts({"final": {"step": 20, "loss_nats": 3.25, "perplexity": 25.8}})
    network: Any = build_decoder(settings.model, 31, device="cpu", seed=1, max_length=16, base_dir=path.parent)
    network = adapted(network, settings.optim, seed=1)
    save_model_files(network, tokenizer(), run)
    torch.manual_seed(0)
    for step in (10, 20):
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
        checkpoint.save(run.checkpoints, step, {"model": model_tensors(network)}, {}, keep=2)
    with torch.no_grad():
        return network.eval()(input_ids=IDS).logits


def reload(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, local_files_only=True)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transformers_loads_what_was_trained(tmp_path: Path, tied: bool, dtype: str) -> None:
    logits = make_run(tmp_path / "run", {"tie_word_embeddings": tied, "dtype": dtype})
    exported = export(str(tmp_path / "run"), tmp_path / "out")
    assert exported.step == 20
    assert exported.no_gguf == ""
    assert exported.folder == tmp_path / "out"
    model = reload(exported.folder)
    assert model.dtype == getattr(torch, dtype)
    assert torch.equal(model(IDS).logits, logits)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is tied


def test_what_llama_cpp_does_not_convert_is_said_whatever_it_is_a_copy_of(tmp_path: Path) -> None:
    trained_tokenizer(["a word"] * 9, 257, tmp_path / "bpe", silent)
    for config, own, said in (
        (RetNetConfig(), tokenizer(), "llama.cpp knows no RetNet"),
        (
            LlamaConfig(),
            PreTrainedTokenizerFast.from_pretrained(tmp_path / "bpe"),
            "knows no tokenizer that was trained",
        ),
    ):
        stored: Any = SimpleNamespace(model=SimpleNamespace(config=config), tokenizer=own, recipe=None)
        assert said in export_module._unconvertible(stored)


def test_adapters_are_merged(tmp_path: Path) -> None:
    logits = make_run(tmp_path / "run", optim={"method": "lora", "train_modules": ["embed_tokens"]})
    export(str(tmp_path / "run"), tmp_path / "out")
    model = reload(tmp_path / "out")
    assert type(model).__name__ == "LlamaForCausalLM"
    assert not any("lora" in name for name in model.state_dict())
    torch.testing.assert_close(model(IDS).logits, logits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_in_8_bits_become_plain_ones(tmp_path: Path, dtype: str) -> None:
    logits = make_run(tmp_path / "run", {"dtype": dtype}, {"weight_dtype": "int8"})
    network = reload(export(str(tmp_path / "run"), tmp_path / "out").folder)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
    assert not any("scale" in name for name in stored)
    assert torch.equal(network(IDS).logits, logits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_factors_are_multiplied_out(tmp_path: Path, dtype: str) -> None:
    model = {"dtype": dtype, "tie_word_embeddings": True}
    logits = make_run(tmp_path / "run", model, {"method": "lora", "adapter": "factors"})
    exported = export(str(tmp_path / "run"), tmp_path / "out")
    assert "| method | factors |" in (exported.folder / "README.md").read_text()
    network = reload(exported.folder)
    assert network.dtype == getattr(torch, dtype)
    assert "model.layers.0.mlp.up_proj.weight" in network.state_dict()
    assert not any("factor" in name for name in network.state_dict())
    error = (network(IDS).logits.float() - logits.float()).norm() / logits.float().norm()
    assert error < (1e-5 if dtype == "float32" else 0.02)


def test_the_folder_holds_everything_and_no_pickle(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    exported = export(str(tmp_path / "run"), tmp_path / "out")
    names = {path.name for path in exported.folder.iterdir()}
    wanted = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert wanted <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    assert exported.bytes == sum(path.stat().st_size for path in exported.folder.iterdir())
    assert AutoTokenizer.from_pretrained(exported.folder)("w3 w4")["input_ids"] == [3, 4]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_every_file_follows_the_umask(tmp_path: Path, umask: int) -> None:
    make_run(tmp_path / "run")
    before = os.umask(umask)
    try:
        folder = export(str(tmp_path / "run"), tmp_path / "out").folder
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o666 & ~umask}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask


def test_generation_uses_the_cache_and_stops_at_the_tokenizers_end(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    model = reload(export(str(tmp_path / "run"), tmp_path / "out").folder)
    assert model.config.use_cache is True
    assert model.config.eos_token_id == model.generation_config.eos_token_id == 30


def test_settings_of_sampling_that_a_greedy_model_carries_do_not_stop_its_export(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    settings = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.2}
    (tmp_path / "run/model/generation_config.json").write_text(json.dumps(settings))
    generation = reload(export(str(tmp_path / "run"), tmp_path / "out").folder).generation_config
    assert (generation.repetition_penalty, generation.eos_token_id) == (1.2, 30)
    assert not generation.do_sample


def test_a_toolkit_to_go_on_with_finds_its_files_beside_the_weights(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    exported = export(str(tmp_path / "run"), tmp_path / "out", ExportOptions(onward=TARGETS["axolotl"]))
    text = (tmp_path / "out/axolotl.yaml").read_text()
    assert "base_model: ." in text
    assert str(tmp_path) not in text
    assert exported.left[0].startswith("train.global_batch_size: ")


def test_the_model_card_has_the_facts_and_no_paths(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    export(str(tmp_path / "run"), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    for fact in (
        "library_name: transformers",
        "| optimizer steps | 20 |",
        "| method | galore |",
        "| rank | 4 |",
        "3.25",
    ):
        assert fact in card
    assert "secret" not in card
    assert str(tmp_path) not in card


def test_a_damaged_checkpoint_is_passed_over_and_the_step_says_so(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "step-00000020" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    stored = load_run_model(str(tmp_path / "run"))
    assert [item.path.name for item in stored.skipped] == ["step-00000020"]
    assert stored.step == 10
    assert export(str(tmp_path / "run"), tmp_path / "out").origin.endswith("step-00000010")


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint yet") as refused:
        export(str(tmp_path / "run"), tmp_path / "out")
    assert refused.value.fix == "train on with --resume"
    assert not (tmp_path / "out").exists()


def test_where_every_checkpoint_is_damaged_nobody_is_sent_to_resume(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints").glob("*/model.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"no good checkpoint; skipped .*; skipped ") as refused:
        load_run_model(str(tmp_path / "run"))
    assert "restore them" in str(refused.value.fix)


def test_a_run_is_whole_without_the_model_it_started_from(tmp_path: Path) -> None:
    make_run(tmp_path / "first")
    base = export(str(tmp_path / "first"), tmp_path / "base").folder
    logits = make_run(tmp_path / "second", {"name_or_path": "base"})
    shutil.rmtree(base)
    export(str(tmp_path / "second"), tmp_path / "out")
    assert torch.equal(reload(tmp_path / "out")(IDS).logits, logits)


def test_a_folder_can_be_loaded_and_exported_again(tmp_path: Path) -> None:
    logits = make_run(tmp_path / "run")
    first = export(str(tmp_path / "run"), tmp_path / "first").folder
    again = export(str(first), tmp_path / "again")
    assert again.step is None
    assert torch.equal(reload(again.folder)(IDS).logits, logits)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    make_run(folder / "run")
    return export(str(folder / "run"), folder / "out").folder


NAMES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize("name", [*NAMES, "galore-manifest.json"])
def test_an_exported_folder_that_has_changed_is_no_longer_loaded(exported: Path, name: str) -> None:
    load_run_model(str(exported))
    whole = (exported / name).read_bytes()
    try:
        for position in range(0, len(whole), len(whole) // 10 + 1):
            (exported / name).write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
            with pytest.raises(UserError, match=rf"out: is not as it was exported: {name}[\s\S]*export it again"):
                load_run_model(str(exported))
        for content in (b"", whole[: len(whole) // 2]):
            (exported / name).write_bytes(content)
            with pytest.raises(UserError, match="is not as it was exported"):
                load_run_model(str(exported))
        if name != "galore-manifest.json":
            (exported / name).unlink()
            with pytest.raises(UserError, match=f"{name} is missing"):
                load_run_model(str(exported))
    finally:
        (exported / name).write_bytes(whole)


@pytest.mark.parametrize("links", [True, False])
def test_a_checkpoint_that_has_changed_is_no_model_folder(exported: Path, tmp_path: Path, links: bool) -> None:
    """Neither where it lies, with its links, nor copied elsewhere with what they lead to."""
    run = Path(shutil.copytree(exported.parent / "run", tmp_path / "run", symlinks=True))
    old, beside = max((run / "checkpoints").iterdir()), [run / "model", run / "tokenizer"]
    files = {f"{each.name}/{path.name}": sha256(path.read_bytes()) for each in beside for path in each.iterdir()}
    state = {"made_with": {"files": {name: digest.hexdigest() for name, digest in files.items()}}}
    tensors = {"model": load_file(old / "model.safetensors")}
    folder = checkpoint.save(run / "checkpoints", 21, tensors, state, keep=2, beside=beside)
    folder = folder if links else Path(shutil.copytree(folder, tmp_path / "copy"))

    def begun() -> None:
        config = read_config(str(folder), None)
        load_pretrained(str(folder), config, revision=None, dtype=torch.float32, attn_implementation=None)
        load_tokenizer(str(folder), None, Path(), "data.tokenizer")

    begun()
    copy = Path(shutil.copytree(old, tmp_path / "bare"))
    with pytest.raises(UserError, match="is a checkpoint without the configuration of a model"):
        read_config(str(copy), None)
    for name in [*NAMES, "manifest.json", "state.json"]:
        whole = (folder / name).read_bytes()
        middle = len(whole) // 2
        (folder / name).write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        with pytest.raises(UserError, match=rf"is not as it was saved: {name}[\s\S]*another checkpoint"):
            begun()
        (folder / name).write_bytes(whole)


def test_a_run_or_tokenizer_does_not_begin_with_a_changed_export(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "base"))
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " ")
    with pytest.raises(UserError, match=r"tokenizer\.json has"):
        load_tokenizer("base", None, tmp_path, "data.tokenizer")
    with pytest.raises(UserError, match=r"tokenizer\.json has"):
        make_run(tmp_path / "second", {"name_or_path": "base"})


def test_a_folder_without_digests_is_taken_as_it_is(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "mine"))
    (folder / "README.md").write_text("mine")
    load_run_model(str(folder))
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("1e-06", "1e-05"))
    (folder / "galore-manifest.json").unlink()
    assert load_run_model(str(folder)).model.config.rms_norm_eps == 1e-05


def test_every_file_is_on_the_disk_before_the_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run")
    synced: dict[str, int] = {}
    real = os.fsync

    def note(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced[path.name] = len(synced)
        if path.is_file():
            assert path.parent.name == ".out.tmp"
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    folder = export(str(tmp_path / "run"), tmp_path / "new" / "out").folder
    assert {path.name for path in folder.iterdir()} <= synced.keys()
    assert list(synced)[-1] == "new"
    assert {tmp_path.name, "new", ".out.tmp"} <= synced.keys()


def test_what_a_killed_export_left_is_used_up(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    (tmp_path / ".out.tmp" / "below").mkdir(parents=True)
    (tmp_path / ".out.tmp" / "model.safetensors").write_bytes(bytes(100))
    export(str(tmp_path / "run"), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    load_run_model(str(tmp_path / "out"))
    assert not (tmp_path / "out" / "below").exists()


def test_two_exports_to_one_folder_do_not_mix(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    (tmp_path / ".out.tmp").mkdir()
    with alone_in(tmp_path / ".out.tmp"), pytest.raises(UserError, match="another process writes there"):
        export(str(tmp_path / "run"), tmp_path / "out")


def test_a_used_target_is_refused_and_untouched(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        export(str(tmp_path / "run"), tmp_path / "out")
    with pytest.raises(UserError, match="is a file"):
        export(str(tmp_path / "run"), tmp_path / "out" / "mine.txt")
    assert os.listdir(tmp_path / "out") == ["mine.txt"]  # noqa: PTH208


def test_a_place_that_cannot_be_written_to_is_bad_input(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    for place in ("/proc/out", "/proc/self/a/b"):
        with pytest.raises(UserError, match=r"cannot be written: .*\n.*choose a folder you may write to") as caught:
            export(str(tmp_path / "run"), Path(place))
        assert caught.value.exit_code == 2


def test_an_empty_target_is_filled(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "out").mkdir()
    there = (tmp_path / "out").stat().st_ino
    export(str(tmp_path / "run"), tmp_path / "out")
    assert (tmp_path / "out").stat().st_ino == there  # a mount point, or where a shell works
    assert load_run_model(str(tmp_path / "out")).step is None
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_a_link_leads_to_the_folder_that_is_filled(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    for name, target in (("one", "empty"), ("two", "new"), ("round", "round")):
        (tmp_path / name).symlink_to(target)
    for name, target in (("one", "empty"), ("two", "new")):
        assert export(str(tmp_path / "run"), tmp_path / name).folder == tmp_path / target
        assert (tmp_path / name).is_symlink()
        load_run_model(str(tmp_path / name))
    with pytest.raises(UserError, match="is a link that leads nowhere"):
        export(str(tmp_path / "run"), tmp_path / "round")


def test_a_folder_that_is_there_holds_no_model_until_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run")
    out, real, seen = tmp_path / "out", Path.rename, list[str]()
    (out / ".export.tmp" / "left").mkdir(parents=True)

    def rename(path: Path, target: Path) -> Path:
        seen.append(target.name)
        if len(seen) == breaking:
            raise OSError(5, "Input/output error")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    breaking = 3
    with pytest.raises(RunFailed, match="Input/output error"):
        export(str(tmp_path / "run"), out)
    assert list(out.iterdir()) == []
    seen.clear()
    breaking = 0
    export(str(tmp_path / "run"), out)
    assert seen[-1] == "config.json"
    assert sorted(seen) == sorted(path.name for path in out.iterdir())


def test_a_place_below_a_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: is a file") as refused:
        export("no run", tmp_path / "file" / "below" / "out")
    assert refused.value.exit_code == 2


def test_weights_that_hold_nan_are_refused(exported: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(exported)
    with torch.no_grad():
        model.model.norm.weight[2] = float("nan")
    model.save_pretrained(tmp_path / "odd")
    AutoTokenizer.from_pretrained(exported).save_pretrained(tmp_path / "odd")
    with pytest.raises(UserError, match=r"the weights hold nan, in model\.norm\.weight") as refused:
        export(str(tmp_path / "odd"), tmp_path / "out")
    assert refused.value.exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("writer", "error"),
    [
        (PreTrainedTokenizerFast, OSError(28, "No space left on device")),
        (PreTrainedTokenizerFast, Exception("No space left on device (os error 28)")),
        (PreTrainedModel, SafetensorError("I/O error: No space left on device (os error 28)")),
    ],
)
def test_a_failure_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: type, error: Exception
) -> None:
    make_run(tmp_path / "run")

    def disk_full(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(writer, "save_pretrained", disk_full)
    with pytest.raises(UserError, match="No space left") as failed:
        export(str(tmp_path / "run"), tmp_path / "out")
    assert failed.value.exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def lacking(save: Any, model: PreTrainedModel, folder: Path) -> None:
    save(model, folder, state_dict={n: t for n, t in model.state_dict().items() if "layers.1.mlp.up" not in n})


def rounded(save: Any, model: PreTrainedModel, folder: Path) -> None:
    save(model, folder, state_dict={name: tensor.bfloat16().float() for name, tensor in model.state_dict().items()})


def without_config(save: Any, model: PreTrainedModel, folder: Path) -> None:
    save(model, folder)
    (folder / "config.json").unlink()


def other_base(save: Any, model: PreTrainedModel, folder: Path) -> None:
    save(model, folder)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"rope_theta": 10000.0', '"rope_theta": 20000.0'))


@pytest.mark.parametrize(
    ("writer", "message"),
    [
        (lacking, r"does not read back as the model: .*lacks 1 tensors .*layers\.1\.mlp\.up_proj"),
        (rounded, r"does not read back as the model: .*other values: .*embed_tokens"),
        (without_config, "configuration"),
        (other_base, r"does not read back as the model: .*other values: .*inv_freq"),
    ],
)
def test_an_export_that_is_not_the_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Any, message: str
) -> None:
    make_run(tmp_path / "run")
    save = PreTrainedModel.save_pretrained
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", lambda self, folder: writer(save, self, folder))
    with pytest.raises(UserError, match=message) as failed:
        export(str(tmp_path / "run"), tmp_path / "out")
    assert failed.value.exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_disk_that_does_not_answer_is_no_other_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run")
    save = PreTrainedModel.save_pretrained

    def written(self: PreTrainedModel, folder: Path) -> None:
        save(self, folder)
        met = RunFailed("cannot be read", where="the disk", fix="try again")
        monkeypatch.setattr(export_module, "load_pretrained", lambda *_, **__: raised(met))

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", written)
    with pytest.raises(RunFailed, match="the disk: cannot be read") as failed:
        export(str(tmp_path / "run"), tmp_path / "out")
    assert failed.value.fix == "try again"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def raised(error: Exception) -> None:
    raise error


def test_an_adapted_head_that_was_tied_is_exported_as_trained(tmp_path: Path) -> None:
    model = {"tie_word_embeddings": True}
    logits = make_run(tmp_path / "run", model, {"method": "lora", "target_modules": ["self_attn", "lm_head"]})
    network = reload(export(str(tmp_path / "run"), tmp_path / "out").folder)
    torch.testing.assert_close(network(IDS).logits, logits, rtol=1e-4, atol=1e-4)
    assert network.config.tie_word_embeddings is False
    assert network.get_output_embeddings().weight is not network.get_input_embeddings().weight


def test_neither_a_run_nor_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thing").mkdir()
    save_file({"x": torch.ones(1)}, tmp_path / "thing" / "model.safetensors")
    with pytest.raises(UserError, match="thing"):
        export(str(tmp_path / "thing"), tmp_path / "out")
    with pytest.raises(UserError, match="no such run or folder"):
        export(str(tmp_path / "nowhere"), tmp_path / "out")


def test_shards_and_a_modelfile_are_read_back_as_the_model(tmp_path: Path) -> None:
    logits = make_run(tmp_path / "run")
    exported = export(str(tmp_path / "run"), tmp_path / "out", ExportOptions(max_shard_size="20KB", ollama=True))
    assert len([*exported.folder.glob("model-*.safetensors")]) > 1
    assert (exported.folder / "model.safetensors.index.json").is_file()
    assert torch.equal(reload(exported.folder)(IDS).logits, logits)
    assert (exported.folder / "Modelfile").read_text().startswith("FROM .\n")
    assert load_run_model(str(exported.folder)).step is None  # its digests hold


def test_a_folder_that_is_not_utf8_is_no_place_of_a_model(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "r\udcff")
    with pytest.raises(UserError, match=r"r.: its name.*is not UTF-8.*\n.*move or rename it"):
        load_run_model(str(tmp_path / "r\udcff"))
    with pytest.raises(UserError, match=r"e.: its name.*is not UTF-8.*\n.*choose another folder"):
        export(str(tmp_path / "nothing"), tmp_path / "e\udcff")
