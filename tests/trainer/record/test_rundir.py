"""Who may use a run directory, and when."""

import fcntl
import math
import os
import shutil
import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.common.lock import is_held
from galore.trainer.record.rundir import RunDir
from galore.trainer.trained.runmodel import load_run_model


def _run(path: Path) -> RunDir:
    run_dir = RunDir.create(path, resume=False)
    run_dir.recipe.write_text("model: {}\n")
    return run_dir


@pytest.mark.parametrize("existing", [True, False])
def test_a_new_run_takes_a_missing_or_empty_directory(tmp_path: Path, existing: bool) -> None:
    path = tmp_path / "a" / "b"
    if existing:
        path.mkdir(parents=True)
    run_dir = RunDir.create(path, resume=False)
    assert run_dir.fresh
    assert path.is_dir()


def test_a_killed_start_can_be_started_again(tmp_path: Path) -> None:
    with RunDir.create(tmp_path, resume=False).locked():
        pass
    RunDir.create(tmp_path, resume=False)


@pytest.mark.parametrize("there", ["", "a", "a/b"])
def test_a_start_that_fails_leaves_what_it_found(tmp_path: Path, there: str) -> None:
    (tmp_path / there).mkdir(parents=True, exist_ok=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(KeyError), RunDir.create(tmp_path / "a" / "b", resume=False).locked():
        raise KeyError
    assert sorted(tmp_path.rglob("*")) == before


def test_a_start_that_fails_later_leaves_what_it_wrote(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "a", resume=False)
    with suppress(KeyError), run_dir.locked():
        run_dir.recipe.write_text("")
        raise KeyError
    assert sorted(path.name for path in run_dir.root.iterdir()) == [".lock", "recipe.yaml"]


def test_a_resumption_that_fails_leaves_the_lock(tmp_path: Path) -> None:
    _run(tmp_path / "run").recipe.unlink()
    with RunDir(tmp_path / "run").locked():
        pass
    assert (tmp_path / "run" / ".lock").exists()


def test_the_lock_of_a_deleted_file_is_worth_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deleted_meanwhile(descriptor: int, operation: int) -> None:
        (tmp_path / ".lock").unlink()

    monkeypatch.setattr("fcntl.flock", deleted_meanwhile)
    with pytest.raises(UserError, match="until now"), RunDir(tmp_path).locked():
        pass


@pytest.mark.parametrize("replaced", [False, True])
def test_a_renamed_directory_takes_nothing_more(tmp_path: Path, replaced: bool) -> None:
    run_dir = _run(tmp_path / "run")
    with RunDir.create(run_dir.root, resume=True).locked() as held:
        run_dir.root.rename(tmp_path / "moved")
        (tmp_path / "moved" / "checkpoints" / "step-00000007").mkdir(parents=True)
        if replaced:
            _run(tmp_path / "run").lock.touch()
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(RunFailed, match=r"lies in .*/moved, with step-00000007\n.*moved --resume"):
            held.write_facts({})
        assert held.is_lost
    assert sorted(tmp_path.rglob("*")) == before


def test_a_lock_that_was_deleted_alone_is_taken_anew(tmp_path: Path) -> None:
    with RunDir(tmp_path).locked() as held:
        held.lock.unlink()
        held.write_facts({"name": "mine"})
        assert is_held(held.lock)
        assert not held.is_lost
    assert not is_held(held.lock)


def test_a_lock_that_is_anothers_by_now_is_lost(tmp_path: Path) -> None:
    with RunDir(tmp_path).locked() as held:
        held.lock.unlink()
        held.lock.touch()
        with pytest.raises(RunFailed, match=r"lock was deleted, and cannot be taken anew\n.*--resume"):
            held.write_facts({})


def test_a_name_that_no_library_can_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not UTF-8"):
        RunDir.create(tmp_path / "nu\udcff" / "run", resume=False)
    assert not list(tmp_path.iterdir())


def test_a_directory_that_was_deleted_is_lost(tmp_path: Path) -> None:
    with RunDir.create(tmp_path / "run", resume=False).locked() as held:
        shutil.rmtree(held.root)
        held.root.mkdir()
        with pytest.raises(RunFailed, match="was deleted"):
            held.write_facts({})
        assert not list(held.root.iterdir())


@pytest.mark.parametrize(
    "name", ["checkpoints", "snapshots", "model", "tokenizer", "plots", "profile", "run.json", "metrics.jsonl"]
)
def test_a_link_that_leads_nowhere_stops_the_resumption(tmp_path: Path, name: str) -> None:
    run_dir = _run(tmp_path / "run")
    (run_dir.root / name).unlink(missing_ok=True)
    (run_dir.root / name).symlink_to(tmp_path / "scratch" / name)
    with pytest.raises(UserError, match=rf"{name}: is a link to .*scratch/{name}, which is not there"):
        RunDir.create(run_dir.root, resume=True)
    (tmp_path / "scratch").mkdir()
    if "." in name:
        RunDir.create(run_dir.root, resume=True)  # a file may be made where its folder is
        return
    (tmp_path / "scratch" / name).mkdir()
    RunDir.create(run_dir.root, resume=True)


def test_a_folder_is_typed_as_no_option_and_no_recipe() -> None:
    assert [RunDir(Path(name)).typed for name in ("-dash", "demo", "runs/one")] == ["./-dash", "./demo", "runs/one"]


def test_a_lock_in_whose_place_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match=r"\.lock: is no file, where the run has its lock"), RunDir(tmp_path).locked():
        pass


def test_a_start_that_ends_leaves_the_directory_that_took_its_name(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with RunDir.create(path, resume=False).locked():
        path.rename(tmp_path / "moved")
        path.mkdir()
        (path / ".lock").touch()
    assert (path / ".lock").exists()


@pytest.mark.parametrize("name", [".recipe.yaml.tmp", ".model.tmp/config.json", ".old-tokenizer.tmp/tokenizer.json"])
def test_what_a_killed_start_leaves_neither_blocks_nor_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("model:")
    with RunDir.create(tmp_path, resume=False).locked() as run_dir:
        run_dir.recipe.write_text("")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "recipe.yaml"]


def test_a_used_directory_is_refused(tmp_path: Path) -> None:
    _run(tmp_path / "run")
    with pytest.raises(UserError, match=r"already holds a run\n.*add --resume") as caught:
        RunDir.create(tmp_path / "run", resume=False)
    assert caught.value.exit_code == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"is not empty \(it holds thesis.tex\)\n.*another --output-dir"):
        RunDir.create(tmp_path / "other", resume=False)


def test_resume_starts_what_is_not_there_yet_and_takes_what_is(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert RunDir.create(tmp_path / "missing", resume=True).fresh
    assert RunDir.create(tmp_path / "empty", resume=True).fresh
    _run(tmp_path / "run")
    assert not RunDir.create(tmp_path / "run", resume=True).fresh
    with pytest.raises(UserError, match=r"is not empty \(it holds empty\)"):
        RunDir.create(tmp_path, resume=True)


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.json", "report.md", "wandb.json", "error.txt"])
def test_a_folder_in_the_place_of_a_file_is_told_before_anything_is_done(tmp_path: Path, name: str) -> None:
    _run(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"{name}: is a folder, where the run has a file\n.*move it away"):
        RunDir.create(tmp_path, resume=True)


@pytest.mark.parametrize("name", ["model", "tokenizer"])
def test_a_file_in_the_place_of_a_folder_is_told_before_anything_is_done(tmp_path: Path, name: str) -> None:
    _run(tmp_path)
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=rf"{name}: is no folder, where the run has one\n.*move it away"):
        RunDir.create(tmp_path, resume=True)


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("part", ["run.json", "checkpoints/step-00000003"])
@pytest.mark.parametrize("folder", [True, False])
def test_a_run_without_its_recipe_is_told_so_with_what_to_do(
    tmp_path: Path, part: str, folder: bool, resume: bool
) -> None:
    if part.endswith("json"):
        (tmp_path / part).write_text("{}")
    else:
        (tmp_path / part).mkdir(parents=True)
    if folder:
        (tmp_path / "recipe.yaml").mkdir()
    told = rf"whose recipe.yaml is {'no file' if folder else 'missing'}\n.*trained with to {tmp_path}/recipe.yaml"
    for ask in (
        lambda: RunDir.create(tmp_path, resume),
        lambda: RunDir.open(tmp_path),
        lambda: load_run_model(str(tmp_path)),
    ):
        with pytest.raises(UserError, match=told):
            ask()


def test_only_a_run_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        RunDir.open(tmp_path / "missing")
    with pytest.raises(UserError, match=r"holds no run \(no recipe.yaml\)"):
        RunDir.open(tmp_path)
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("resume", [True, False])
def test_a_file_is_refused(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="is a file, not a directory"):
        RunDir.create(tmp_path / "file", resume)
    with pytest.raises(UserError, match=r"Not a directory|no such directory"):
        RunDir.create(tmp_path / "file" / "below", resume)
    assert (tmp_path / "file").read_text() == "precious"


def test_an_unwritable_directory_is_refused() -> None:
    with pytest.raises(UserError, match=r"cannot be used.*\n.*you may write to"):
        RunDir.create(Path("/proc/galore"), resume=False)
    with pytest.raises(UserError, match="cannot be written"), RunDir(Path("/proc")).locked():
        pass


def test_a_second_run_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    run_dir = _run(tmp_path)
    with RunDir(tmp_path).locked():
        with (
            pytest.raises(UserError, match=f"pid {os.getpid()} on {socket.gethostname()}") as caught,
            RunDir(tmp_path).locked(),
        ):
            pass
        assert caught.value.exit_code == 2
    with RunDir.create(run_dir.root, resume=True).locked():
        pass


def test_who_asks_whether_a_run_goes_on_does_not_hinder_its_start(tmp_path: Path) -> None:
    lock = RunDir(tmp_path).lock
    assert not is_held(lock)
    with lock.open("w") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        threading.Timer(0.02, lambda: fcntl.flock(asking, fcntl.LOCK_UN)).start()
        with RunDir(tmp_path).locked():
            assert is_held(lock)
    assert not is_held(lock)


def test_the_lock_dies_with_a_killed_holder_even_if_its_worker_lives(tmp_path: Path) -> None:
    ready, announce = os.pipe()
    holder = os.fork()
    if holder == 0:
        with RunDir(tmp_path).locked():
            if os.fork() == 0:  # the worker says when it is up
                os.write(announce, str(os.getpid()).encode())
            signal.pause()
    worker = int(os.read(ready, 100))
    try:
        with pytest.raises(UserError, match=f"pid {holder} "), RunDir(tmp_path).locked():
            pass
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        with RunDir(tmp_path).locked():
            os.kill(worker, 0)  # the worker is alive and does not hold it
    finally:
        os.kill(worker, signal.SIGKILL)


def test_two_starts_at_once_do_not_share_a_directory(tmp_path: Path) -> None:
    first, second = RunDir.create(tmp_path, resume=False), RunDir.create(tmp_path, resume=False)
    with first.locked():
        first.recipe.write_text("")
    with pytest.raises(UserError, match="already holds a run"), second.locked():
        pass


def test_facts(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    assert run_dir.read_facts() == {}
    run_dir.write_facts({"name": "größe", "versions": {"torch": "2"}})
    run_dir.write_facts({"name": "größe"})
    assert run_dir.read_facts() == {"name": "größe"}
    run_dir.write_facts({"final": {"loss_nats": math.nan, "perplexity": math.inf}})
    told = {"loss_nats": None, "loss_nats_is": "nan", "perplexity": None, "perplexity_is": "inf"}
    assert run_dir.read_facts() == {"final": told}
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    run_dir.facts.write_text("[1")
    assert run_dir.read_facts() == {}


def test_the_command_that_goes_on_is_one_for_a_shell_and_names_no_shipped_recipe() -> None:
    assert RunDir(Path("runs/my own")).go_on() == "galore train 'runs/my own' --resume"
    assert RunDir(Path("r")).go_on("data.path=[a, b]") == "galore train r 'data.path=[a, b]' --resume"
    assert RunDir(Path("demo")).go_on() == "galore train ./demo --resume"


@pytest.mark.parametrize(
    ("ranks", "here", "started"),
    [("2", "2", "torchrun --nproc-per-node=2 -m galore"), ("8", "4", "torchrun … -m galore")],
)
def test_of_several_processes_the_command_that_goes_on_starts_several(
    ranks: str, here: str, started: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", ranks)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    assert RunDir(Path("runs/two")).go_on() == f"{started} train runs/two --resume"
