"""docs/scaling.md: its scripts and files are read by what would read them, and galore knows each command."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

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


@pytest.mark.parametrize(("state", "requeued"), [("interrupted", True), ("finished", False), ("failed", False)])
def test_the_job_is_queued_again_where_its_run_was_interrupted(tmp_path: Path, state: str, requeued: bool) -> None:
    runs = json.dumps(
        [{"folder": "/shared/runs/small", "state": "none"}, {"folder": "/shared/runs/big", "state": state}]
    )
    for name, says in {"scontrol": "", "srun": "", "galore": runs}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\necho \"{name} $*\" >> {tmp_path}/calls\ncat << 'E'\n{says}\nE\n")
        (tmp_path / name).chmod(0o755)
    given = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2"}
    subprocess.run(["bash", "-c", JOB], env=os.environ | given, check=True, capture_output=True)
    assert ((tmp_path / "calls").read_text().splitlines()[-1] == "scontrol requeue 7") is requeued
