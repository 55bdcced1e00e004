"""`galore finetune-glue`: what is printed where, and what a wrong folder, column, label or empty file is answered with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SMALL = ("data.max_length=32", "train.num_train_epochs=2", "optim.update_proj_gap=3")
SENTENCES = {"sst2": {"sentence": "good"}, "rte": {"sentence1": "good", "sentence2": "bad"}}


@pytest.fixture
def finetune(galore: Any, tiny_roberta: Path, glue_folder: Path) -> Any:
    def run(*arguments: str) -> Any:
        where = () if "--data-dir" in arguments else ("--data-dir", str(glue_folder))
        return galore("finetune-glue", *SMALL, "--model", str(tiny_roberta), *where, *arguments)

    return run


@pytest.mark.usefixtures("undrawn")
def test_one_json_object_per_task_and_method_and_nothing_else(finetune: Any) -> None:
    shown = finetune("--task", "sst2,stsb", "--method", "galore,full", "--runs", "2", "--json")
    assert shown.exit_code == 0, shown.stderr
    found = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [(each["task"], each["method"]) for each in found] == [
        ("sst2", "galore"),
        ("sst2", "full"),
        ("stsb", "galore"),
        ("stsb", "full"),
    ]
    assert all(0 <= each["accuracy"] <= 1 for each in found[:2])
    assert all(-1 <= each[name] <= 1 for each in found[2:] for name in ("pearson", "spearman"))
    for each in found:
        assert each["seeds"] == [42, 43]
        assert each["epochs"] == 2
        assert each["min"] <= each[each["headline"]] <= each["max"]
        assert min(each[name] for name in ("peak_memory_bytes", "optimizer_bytes", "seconds")) > 0
    assert found[0]["optimizer_bytes"] < found[1]["optimizer_bytes"]
    assert found[0]["majority_baseline"] == {"accuracy": 0.5}
    assert "step 3/3" in shown.stderr


def test_a_table_and_files(finetune: Any) -> None:
    shown = finetune("--task", "rte", "--max-train-samples", "16", "--output-dir", "out", "--predict-test")
    assert shown.exit_code == 0, shown.stderr
    assert "wrote out/glue.md, glue.json, glue.png" in shown.stdout
    assert "galore-r4" in shown.stdout
    assert Path("out/submission/galore-r4/RTE.tsv").is_file()
    assert json.loads(Path("out/glue.json").read_text())[0]["published_elsewhere"]["differs"][-1] == "16 examples"
    again = finetune("--task", "rte", "--max-train-samples", "16", "--output-dir", "out")
    assert (again.exit_code, again.stderr.count("\n")) == (2, 2)
    assert "add --resume" in again.stderr
    resumed = finetune("--task", "rte", "--max-train-samples", "16", "--output-dir", "out", "--resume")
    assert resumed.exit_code == 0
    assert "is done" in resumed.stdout


def test_a_first_override_is_no_recipe(galore: Any) -> None:
    refused = galore("finetune-glue", "optim.rnak=3")
    assert refused.exit_code == 2
    assert "optim.rank" in refused.stderr


@pytest.mark.usefixtures("undrawn")
def test_a_failed_task_is_listed_and_the_others_are_there(finetune: Any) -> None:
    shown = finetune("--task", "cola,rte", "--json")
    assert shown.exit_code == 1
    assert [json.loads(line)["status"].partition(":")[0] for line in shown.stdout.splitlines()] == ["failed", "done"]
    assert "failed: cola/galore-r4" in shown.stderr


def write(folder: Path, task: str, row: dict[str, Any] | None) -> None:
    (folder / task).mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        text = "" if row is None else json.dumps(row) + "\n"
        (folder / task / f"{split}.jsonl").write_text(text)


@pytest.mark.parametrize("task", ["sst2", "rte"])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("nowhere", "no such folder"),
        ("other", ""),
        ("columns", "train.jsonl:1"),
        ("empty", "holds no rows"),
        ("label", "train.jsonl:1"),
        ("broken", "train.jsonl:1"),
    ],
)
def test_wrong_data_is_one_line_and_exit_code_2(
    finetune: Any, tmp_path: Path, task: str, wrong: str, said: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    texts = SENTENCES[task]
    if wrong == "other":
        write(folder, "cola", {"sentence": "good", "label": 1})
    elif wrong == "columns":
        write(folder, task, {"words": "good", "label": 1})
    elif wrong == "empty":
        write(folder, task, None)
    elif wrong == "label":
        write(folder, task, {**texts, "label": "maybe"})
    elif wrong == "broken":
        write(folder, task, {**texts, "label": 1})
        (folder / task / "train.jsonl").write_text('{"sentence": \n')
    where = tmp_path / "absent" if wrong == "nowhere" else folder
    refused = finetune("--task", task, "--data-dir", str(where))
    assert refused.exit_code == 2
    what, _, fix = refused.stderr.strip().partition("\n")
    assert what.startswith("error: ")
    assert said in what
    assert fix.startswith("  → ")
    assert "\n" not in fix
    assert "Traceback" not in refused.output


@pytest.mark.usefixtures("undrawn")
def test_the_table_covers_the_folder_and_is_read_at_any_width(finetune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ("--max-train-samples", "16", "train.num_train_epochs=1", "--output-dir", "out")
    whole = finetune("--task", "SST-2,rte", "--method", "galore,full", *few)
    assert whole.exit_code == 0, whole.stderr
    objects = json.loads(Path("out/glue.json").read_text())
    for columns in (80, 60):
        monkeypatch.setenv("COLUMNS", str(columns))
        again = finetune("--task", "rte", "--method", "full", *few, "--resume")
        lines = again.stdout.splitlines()
        assert "\u2026" not in again.stdout
        assert [line for line in lines if len(line) > columns] == []
        for each in objects:
            assert any(f"{100 * each[each['headline']]:.2f}" in line for line in lines)
        assert {line.strip() for line in lines} >= {"RTE, full", "RTE, galore-r4", "SST-2, full", "SST-2, galore-r4"}
    found = json.loads(Path("out/glue.json").read_text())
    assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, objects))
    table = Path("out/glue.md").read_text()
    assert all(
        f"| {task} | accuracy | {label} |" in table for task in ("SST-2", "RTE") for label in ("galore-r4", "full")
    )


def test_a_test_split_that_is_nowhere_is_told_before_training(finetune: Any, glue_folder: Path) -> None:
    (glue_folder / "rte/test.jsonl").unlink()
    refused = finetune("--task", "sst2,rte", "--predict-test", "--json", "--output-dir", "out")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "test" in refused.stderr
    assert not Path("out").exists()


@pytest.mark.usefixtures("undrawn")
def test_scores_are_printed_before_the_test_splits_are_answered(finetune: Any, glue_folder: Path) -> None:
    (glue_folder / "rte/test.jsonl").write_text('{"sentence1": 3}\n')
    refused = finetune("--task", "rte", "--predict-test", "--json", "--output-dir", "out")
    assert (refused.exit_code, json.loads(refused.stdout)["task"]) == (2, "rte")
    assert "test.jsonl:1" in refused.stderr


@pytest.mark.usefixtures("undrawn")
def test_answers_that_fail_are_listed_with_the_runs_that_did(finetune: Any, glue_folder: Path) -> None:
    (glue_folder / "cola").mkdir()
    for task in ("cola", "rte"):
        (glue_folder / f"{task}/test.jsonl").write_text('{"sentence1": 3}\n')
    shown = finetune("--task", "cola,rte,sst2", "--predict-test", "--json", "--output-dir", "out")
    told = [line.split("/")[0] for line in shown.stderr.splitlines() if line.startswith("failed: ")]
    assert (shown.exit_code, told) == (1, ["failed: cola", "failed: rte"])
    assert Path("out/submission/galore-r4/SST-2.tsv").is_file()


def test_errors_name_the_options_that_were_typed(finetune: Any, galore: Any) -> None:
    refused = galore("finetune-glue", "roberta-glue", "--task", "rte", "--data-dir", "")
    assert "--data-dir" in refused.stderr
    assert "data.path" not in refused.stderr
    refused = galore("finetune-glue", "demo", "--task", "rte", "--data-dir", "glue")
    assert (refused.exit_code, refused.stderr.splitlines()[0]) == (2, "error: demo: is no recipe for GLUE")


@pytest.mark.usefixtures("undrawn")
def test_an_encoder_of_another_family_is_trained(finetune: Any, tiny_roberta: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_roberta)
    config = AutoConfig.for_model("distilbert", vocab_size=len(tokenizer), dim=32, hidden_dim=48, n_layers=1, n_heads=2)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / "distil")
    tokenizer.save_pretrained(tmp_path / "distil")
    more = ("--method", "galore,lora", "--max-train-samples", "16", "--output-dir", "out")
    shown = finetune("--task", "rte", "--model", str(tmp_path / "distil"), *more)
    assert shown.exit_code == 0, shown.stderr
    assert (
        "optim.target_modules=[q_lin,k_lin,v_lin,out_lin,lin1,lin2,word_embeddings,position_embeddings,pre_class"
        in shown.stdout
    )
    again = finetune("--task", "rte", "--model", str(tmp_path / "distil"), *more, "--resume")
    assert again.stdout.count("is done") == 2
