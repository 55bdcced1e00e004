"""The wheel, installed into an empty environment, works from any directory."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command, cwd):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_wheel_in_an_empty_environment(tmp_path):
    run(sys.executable, "-m", "build", "-q", "--wheel", "--outdir", tmp_path / "dist", cwd=ROOT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python, galore = tmp_path / "venv/bin/python", tmp_path / "venv/bin/galore"
    run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", "torch", cwd=tmp_path)
    run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    assert "llama-7b-galore-8bit" in run(galore, "recipes", "list", cwd=tmp_path)
    assert "q_proj" in run(galore, "train", "llama-60m-galore", "--dry-run", cwd=tmp_path)
    run(galore, "doctor", cwd=tmp_path)
    run(galore, "profile-memory", "llama-60m-galore", "--gpu", "rtx4090", "--timeline", "page.html", cwd=tmp_path)
    assert "llama-60m-galore" in (tmp_path / "page.html").read_text()
    run(
        python,
        "-c",
        "import galore.trainer.optim, sys; assert 'typer' not in sys.modules and 'transformers' not in sys.modules",
        cwd=tmp_path,
    )
    (tmp_path / "text.txt").write_text("\n\n".join(f"the quick brown fox number {k} jumps over it" for k in range(400)))
    settings = [
        "data.source=local", "data.path=text.txt", "train.max_steps=2", "model.hidden_size=32", "model.num_hidden_layers=1",
        "data.max_length=32", "data.tokenizer_vocab_size=300", "optim.rank=8", "eval.sample_prompt=null", "train.global_batch_size=4", "train.micro_batch_size=4",
    ]  # fmt: skip
    run(galore, "train", "demo", *settings, "--output-dir", "out", cwd=tmp_path)
    assert (tmp_path / "out/report.md").exists()
