"""The wheel, installed into an empty environment with the core dependencies alone, works from any directory."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command, cwd, code=0):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout or done.stderr


@pytest.mark.slow
def test_wheel_in_an_empty_environment(tmp_path):
    run(sys.executable, "-m", "build", "-q", "--wheel", "--outdir", tmp_path / "dist", cwd=ROOT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    tops = ("cli", "trainer", "kernels", "recipes")
    there = {f"galore/{path.relative_to(ROOT)}" for top in tops for path in (ROOT / top).rglob("*.py")}
    there |= {str(path.relative_to(ROOT)) for path in (ROOT / "galore").rglob("*.py")}
    assert {name for name in packed if name.endswith(".py")} == there, (
        "remove build/lib: setuptools packs its files too"
    )
    assert "galore/py.typed" in packed
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in packed)
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python, galore = tmp_path / "venv/bin/python", tmp_path / "venv/bin/galore"
    run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", "torch", cwd=tmp_path)
    run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    assert run(python, "-m", "galore", "--version", cwd=tmp_path) == run(galore, "--version", cwd=tmp_path)
    names = "from galore import GaLoreAdamW, __version__, train; print(__version__, GaLoreAdamW.__module__)"
    assert run(python, "-c", names, cwd=tmp_path).split() == [wheel.name.split("-")[1], "galore.trainer.optim.galore"]
    assert "llama-7b-galore-8bit" in run(galore, "recipes", "list", cwd=tmp_path)
    assert "q_proj" in run(galore, "train", "llama-60m-galore", "--dry-run", cwd=tmp_path)
    assert "bitsandbytes  not installed" in run(galore, "doctor", cwd=tmp_path)
    assert "galore-llm[demo]" in run(galore, "train", "demo", cwd=tmp_path, code=2)
    assert "galore-llm[lora]" in run(galore, "profile-memory", "llama-60m-lora", cwd=tmp_path, code=2)
    assert "galore-llm[triton]" in run(galore, "bench", "kernels", cwd=tmp_path, code=2)
    run(galore, "profile-memory", "llama-7b-24gb", "--gpu", "rtx4090", cwd=tmp_path)
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
    run(galore, "train", "demo", *settings, "optim.state_dtype=8bit", "--output-dir", "out", cwd=tmp_path)
    assert "galore-llm[plots]" in (tmp_path / "out/report.md").read_text()
    run(galore, "eval", "out", cwd=tmp_path)
    run(galore, "generate", "out", "--prompt", "the", "--max-new-tokens", "3", cwd=tmp_path)
    run(galore, "export", "out", "exported", cwd=tmp_path)
    run(galore, "compare", "demo", *settings, "--methods", "full,galore-8bit", "--output-dir", "both", cwd=tmp_path)
