"""docs/scaling.md: its scripts and files are read by what would read them, and galore knows each command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from snippets import FENCE, ROOT

PAGE = (ROOT / "docs/scaling.md").read_text()
SCRIPTS = [text for language, text in FENCE.findall(PAGE) if language == "bash"]
(JOB,) = [script for script in SCRIPTS if "#SBATCH" in script]
(SKY,) = [yaml.safe_load(text) for language, text in FENCE.findall(PAGE) if language == "text"]


@pytest.mark.parametrize("script", [*SCRIPTS, SKY["run"], SKY["setup"]])
def test_bash_can_read_it(script: str) -> None:
    assert subprocess.run(["bash", "-n", "-c", script], capture_output=True).stderr == b""


@pytest.mark.parametrize("script", [*SCRIPTS, SKY["run"]])
def test_what_torchrun_starts_is_galore_train(script: str) -> None:
    from torch.distributed.run import get_args_parser

    line = re.search(r"torchrun (.*?galore train .*?)$", script.replace("\\\n", " "), re.M)
    assert line is not None
    words = re.sub(r'"?\$\{?\w+\}?(:29500)?"?', "2", line[1]).replace('"', "").split()
    found = get_args_parser().parse_args(words)
    assert found.module
    assert found.training_script == "galore"
    assert found.training_script_args[:2] == ["train", "my.yaml"]


@pytest.mark.parametrize(
    ("facts", "requeued"),
    [({}, True), ({"finished": "2026"}, False), ({"ended": {"as": "failed"}}, False), (None, False)],
)
def test_the_job_is_queued_again_where_its_run_was_interrupted(
    tmp_path: Path, facts: dict[str, Any] | None, requeued: bool
) -> None:
    """With the galore that is here, of which the job asks the exit code; srun ends with 1, as torchrun does."""
    if facts is not None:
        (tmp_path / "big").mkdir()
        (tmp_path / "big/recipe.yaml").write_text("optim:\n  method: full\n")
        (tmp_path / "big/run.json").write_text(json.dumps(facts))
    commands = {"scontrol": "", "srun": "exit 1", "galore": f'exec {sys.executable} -m galore "$@"'}
    for name, does in commands.items():
        (tmp_path / name).write_text(f'#!/bin/bash\necho "{name} $*" >> {tmp_path}/calls\n{does}\n')
        (tmp_path / name).chmod(0o755)
    given = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2"}
    subprocess.run(
        ["bash", "-c", JOB.replace("RUNS=/shared/runs", f"RUNS={tmp_path}")],
        env=os.environ | given,
        check=False,
        capture_output=True,
    )
    assert ((tmp_path / "calls").read_text().splitlines()[-1] == "scontrol requeue 7") is requeued
