"""Weights & Biases is a guest: it may be absent, refuse or break, and the run goes on."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.record.rundir import RunDir
from galore.trainer.record.trackers.sink import make_sink


def _recipe(**log: Any) -> Recipe:
    return Recipe.model_validate({"data": {"source": "packaged"}, "train": {"max_steps": 1}, "log": log})


class _Service:
    """Stands in for the wandb module, and for the run that `init` gives."""

    def __init__(self, broken: str = "") -> None:
        self.started: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.broken, self.exit_codes = broken, list[int]()
        self.part = "20260101_000000"

    def init(self, **arguments: Any) -> Any:
        if self.broken == "init":
            raise RuntimeError("no API key")
        self.started.append(arguments)
        folder = f"{arguments['dir']}/wandb/offline-run-{self.part}-{arguments['id']}"
        known = {"dir": f"{folder}/files", "url": "https://wandb.example/mine/1"}
        return SimpleNamespace(define_metric=lambda *args, **kwargs: None, log=self.log, finish=self.finish, **known)

    def Settings(self, **settings: Any) -> Any:  # noqa: N802
        return settings

    def log(self, row: dict[str, Any]) -> None:
        if self.broken == "log":
            raise RuntimeError("network is down")
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)


def _sink(monkeypatch: pytest.MonkeyPatch, service: _Service, root: Path, said: list[str], **log: Any) -> Any:
    monkeypatch.setitem(sys.modules, "wandb", service)
    return make_sink(_recipe(report_to="wandb", **log), RunDir(root), said.append)


def test_a_refused_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no API key\n.*WANDB_API_KEY.*offline"):
        _sink(monkeypatch, _Service("init"), tmp_path, [], wandb_mode="online")


def test_rows_and_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = _Service()
    for _ in range(2):  # a start and a resumption
        sink = _sink(monkeypatch, service, tmp_path, [], wandb_project="mine")
        sink.log(
            {
                "kind": "train",
                "step": 3,
                "loss_nats": 2.0,
                "mfu_fraction": None,
                "memory_by_category_bytes": {"weights": 8},
            }
        )
        sink.log({"kind": "event", "step": 3, "message": "hello"})
        sink.close()
    own = {"step": 3, "train/loss_nats": 2.0, "train/memory_by_category_bytes/weights": 8}
    assert service.rows == [own | {"train/loss": 2.0, "train/global_step": 3}] * 2
    first, second = service.started
    assert first["id"] == second["id"]
    assert (first["project"], first["name"], first["mode"], first["resume"]) == (
        "mine",
        tmp_path.name,
        "offline",
        "allow",
    )
    assert first["settings"]["console"] == "off"
    assert first["config"]["train"]["max_steps"] == 1
    assert service.exit_codes == [0, 0]


@pytest.mark.parametrize(("end", "code"), [("finished", 0), ("failed", 1), ("interrupted", 75)])
def test_it_is_told_how_the_run_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, code: int) -> None:
    service = _Service()
    _sink(monkeypatch, service, tmp_path, []).close(end)
    assert service.exit_codes == [code]


@pytest.mark.parametrize(
    ("known", "unsaid"), [(["x_disable_meta"], {"x_disable_meta"}), (["_disable_meta"], {"_disable_meta"}), ([], set())]
)
def test_the_command_line_stays_here_and_the_recipe_has_no_secrets(
    known: list[str], unsaid: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Settings(dict[str, Any]):
        model_fields = dict.fromkeys(known)

    service = _Service()
    monkeypatch.setattr(service, "Settings", Settings)
    _sink(monkeypatch, service, tmp_path, [], run_name="https://me:pw@host/x").close()
    (started,) = service.started
    assert {name for name in started["settings"] if "meta" in name} == unsaid
    assert started["config"]["log"]["run_name"] == "https://***@host/x"


def test_it_is_told_where_it_is_recorded_and_how_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, said = tmp_path / "a run", list[str]()
    folder.mkdir()
    service = _Service()
    _sink(monkeypatch, service, folder, said).close()
    kept = folder / "wandb" / f"offline-run-{service.part}-{service.started[0]['id']}"
    assert said == [f"wandb records offline in {kept}", f"wandb recorded offline: `wandb sync '{kept}'` sends it"]
    said.clear()
    _sink(monkeypatch, _Service(), folder, said, wandb_mode="online").close()
    assert said == ["wandb records at https://wandb.example/mine/1"]


def test_all_offline_parts_of_a_run_are_to_be_sent_the_oldest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, said, kept = _Service(), list[str](), tmp_path / "wandb"
    for part in ("20260102_000000", "20251231_000000"):
        _sink(monkeypatch, service, tmp_path, []).close()
        (kept / f"offline-run-{part}-{service.started[0]['id']}").mkdir(parents=True)
    (kept / "offline-run-20260101_000000-another").mkdir()
    service.part = "20260103_000000"
    _sink(monkeypatch, service, tmp_path, said).close()
    parts = [
        f"{kept}/offline-run-{part}-{service.started[0]['id']}"
        for part in ("20251231_000000", "20260102_000000", "20260103_000000")
    ]
    assert said[1] == f"wandb recorded offline: `wandb sync {' '.join(parts)}` sends it"


@pytest.mark.parametrize("log", [{}, {"wandb_project": "mine", "run_name": "this", "wandb_mode": "offline"}])
def test_the_environment_holds_where_the_recipe_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: dict[str, Any]
) -> None:
    for name, value in (("MODE", "online"), ("PROJECT", "theirs"), ("NAME", "that")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    service, said = _Service(), list[str]()
    _sink(monkeypatch, service, tmp_path, said, **log).close()
    (started,) = service.started
    found = (started["project"], started["name"], started["mode"])
    assert found == (("mine", "this", "offline") if log else ("theirs", "that", "online"))
    assert ("records at" in said[0]) is not bool(log)


def test_one_that_is_disabled_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    said = list[str]()
    _sink(monkeypatch, _Service(), tmp_path, said).close()
    assert said == ["wandb is disabled by WANDB_MODE and records nothing"]


def test_the_real_package_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs the wandb extra")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 32 + "5ec7e700")
    said: list[str] = []
    sink = make_sink(_recipe(report_to="wandb", run_name="tiny"), RunDir(tmp_path), said.append)
    assert sink is not None
    sink.log({"kind": "train", "step": 1, "loss_nats": 2.0})
    sink.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.suffix for path in files].count(".wandb") == 1
    assert said[0] == f"wandb records offline in {next(each.parent for each in files if each.suffix == '.wandb')}"
    assert not any(b"5ec7e700" in path.read_bytes() for path in files)
