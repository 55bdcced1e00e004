"""The scripts of the docs run: bash carries them out, with what this machine lacks put in place, and galore does the rest."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from snippets import FENCE, ROOT
from typer.testing import CliRunner

from galore.cli.main import app
from galore.trainer import recorder
from galore.trainer.machine.hardware import Peak
from galore.trainer.record.shown import report

TINY = """
model: {hidden_size: 16, intermediate_size: 24, num_hidden_layers: 1, num_attention_heads: 2, vocab_size: 300}
data: {source: local, path: books, tokenizer_vocab_size: 300, max_length: 16, validation_fraction: 0.2}
optim: {rank: 2, update_proj_gap: 2}
train: {max_steps: 2, global_batch_size: 4, micro_batch_size: 2, device: cpu}
"""

ABSENT = ("ssh", "tmux", "sudo", "nvidia-smi", "scontrol", "nohup", "tail")  # said, not done
CSV = "id,body\n" + "".join(f'{n},"the {n} of a {n * n}, and ""{n % 7}"" in it"\n' for n in range(300))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages speak of; `galore` in a script is written down, and ends with $ENDS_WITH."""
    for name in ("bin", "old", "books"):
        (tmp_path / name).mkdir()
    (tmp_path / "my.yaml").write_text(TINY)
    (tmp_path / "books/a.txt").write_text("\n\n".join(f"the {n} of a {n * n} and {n % 7}" for n in range(200)))
    note = 'printf "%s\\n" "$(basename "$0") $*" >> "$CALLS"'
    for name in (*ABSENT, "galore", "srun"):
        ends = {"galore": "exit $ENDS_WITH", "srun": '"$@"'}.get(name, "")
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{note}\n{ends}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "table.csv").write_text(CSV)
    for name in "abc":
        text = "\n\n".join(f"le café du {n} au {n * n}, œuvre {name}" for n in range(100))
        (tmp_path / "old" / f"{name}.txt").write_bytes(text.encode("cp1252"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("GALORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(recorder, "device_peak", lambda *_: Peak(1e12, "fixed", "cpu"))
    monkeypatch.setattr(report, "draw", lambda _: {})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def carried_out(script: str, here: Path, ends_with: int = 0) -> list[str]:
    """The commands that the script gave."""
    (here / "calls").write_text("")
    environment = os.environ | {"ENDS_WITH": str(ends_with)}
    done = subprocess.run(["bash", "-c", f"{script}\nwait"], cwd=here, env=environment, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    return (here / "calls").read_text().splitlines()


def scripts(page: str) -> list[str]:
    found = [text for language, text in FENCE.findall((ROOT / "docs" / page).read_text()) if language == "bash"]
    assert found
    return found


def typed(call: str) -> None:
    """What a script calls, in this process. The words of a prompt lost their quotes on the way."""
    words, apart, prompt = call.partition(" --prompt ")
    result = CliRunner().invoke(app, [*words.split()[1:], *(["--prompt", prompt] if apart else [])], prog_name="galore")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, f"{call}\n{result.output}"


@pytest.mark.parametrize("page", ["corpus.md", "week.md"])
def test_its_scripts_run_in_their_order(here: Path, page: str) -> None:
    done = set[str]()
    for script in scripts(page):
        calls = carried_out(script, here, ends_with=75 if "srun" in script else 0)
        assert calls or "galore" not in script
        for call in [each for each in calls if each.startswith("galore ")]:
            if call not in done:
                typed(call)
            done.add(call)
        if "srun" in script:
            assert calls[-1].startswith("scontrol requeue")
            assert "srun galore train my.yaml --output-dir runs/week --resume" in calls
    assert len(done) > 3


def test_what_ends_well_is_not_queued_again(here: Path) -> None:
    (job,) = [script for script in scripts("week.md") if "srun" in script]
    calls = carried_out(job, here)
    assert [call.split()[0] for call in calls] == ["srun", "galore"]


def test_the_line_for_cron_starts_a_run_or_goes_on(here: Path) -> None:
    text = (ROOT / "docs/week.md").read_text()
    (line,) = [each.removeprefix("@reboot ") for each in text.splitlines() if each.startswith("@reboot ")]
    line = line.replace("/home/me/work", str(here)).replace(".venv/bin/galore", "galore")
    assert carried_out(line, here) == ["galore train my.yaml --output-dir runs/week --resume"]
