"""The process that restores: it tells, stops, fails and dies without harm to the next click, and ends with the page."""

import io
import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import psutil
import pytest
from PIL import Image

import restorers
from flashdiffusion.app.choice import Choice
from flashdiffusion.app.clicks import Clicks, example
from flashdiffusion.app.damages import FACES
from flashdiffusion.app.limits import Limits
from flashdiffusion.app.loading import load
from flashdiffusion.app.run import FAULT, Failure, Stopped
from flashdiffusion.app.told import Begun, Click, Column, Cost, Counting, Done, Outcome, Step
from flashdiffusion.app.worker import Worker, WorkerDied
from flashdiffusion.errors import CheckpointError, FlashDiffusionError
from flashdiffusion.record import Record


def _click(name: str) -> Click:
    return Click(Choice(), Path("folder"), Path(name), Limits())


def _env() -> dict[str, str]:
    """The environment of an interpreter that finds the tests' modules."""
    folders = [Path(restorers.__file__).parent, Path(__file__).parent, *filter(None, sys.path)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}


def _told(worker: Worker, name: str) -> list[str]:
    told: list[str] = []
    worker(_click(name), lambda word: told.append(word.method) if word is not None else None)
    return told


@pytest.fixture(scope="module")
def worker():
    with closing(Worker(restorers.obedient)) as one:
        yield one


def test_all_that_is_told_arrives_in_order(worker):
    assert _told(worker, "3") == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["1000", "last"])
def test_a_click_is_stopped_and_another_follows(worker, name):
    def stop(word):
        if word is not None:
            raise Stopped

    pid = worker.pid
    with pytest.raises(Stopped):
        worker(_click(name), stop)
    assert _told(worker, "2") == ["0", "1"]  # though a word to stop came when `last` had ended
    assert worker.pid == pid


def test_a_stop_is_heard_while_nothing_is_told(worker, tmp_path):
    clicks = Clicks(worker, Limits(), tmp_path)
    (own := tmp_path / "silent").write_bytes(b"a picture")
    run = clicks.begin("somebody", clicks.runs.ask("somebody"), str(own), None, Choice())
    listening = run.events()
    next(listening)
    assert clicks.runs.stop("somebody")
    assert [*listening] == []  # not the second word, which was on its way
    assert run.stopped


def test_an_error_comes_back_and_another_click_follows(capfd):
    with closing(Worker(restorers.obedient)) as worker:
        with pytest.raises(CheckpointError, match=r"^damaged; expected another$") as refused:
            worker(_click("refused"), print)
        assert type(refused.value) is CheckpointError
        for name in ("broken", "lost"):
            with pytest.raises(FlashDiffusionError, match=FAULT):
                worker(_click(name), print)
        assert _told(worker, "1") == ["0"]
    assert "ZeroDivisionError: a fault of ours" in capfd.readouterr().err


def test_one_that_is_killed_is_replaced(worker):
    before = worker.pid

    def kill(word):
        os.kill(worker.pid, signal.SIGKILL)

    with pytest.raises(WorkerDied, match=r"ended before it was done \(Killed\).*out of memory.*press Restore"):
        worker(_click("1000"), kill)
    assert worker.pid != before
    assert _told(worker, "2") == ["0", "1"]
    os.kill(worker.pid, signal.SIGKILL)  # while it does nothing
    while psutil.Process(worker.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert _told(worker, "2") == ["0", "1"]


def test_a_visitor_is_told_of_one_that_is_killed(worker, tmp_path):
    clicks = Clicks(worker, Limits(), tmp_path)
    own = tmp_path / "1000"
    own.write_bytes(b"a picture")
    run = clicks.begin("somebody", clicks.runs.ask("somebody"), str(own), None, Choice())
    listening = run.events()
    next(listening)
    os.kill(worker.pid, signal.SIGKILL)
    *_, last = listening
    assert isinstance(last, Failure)
    assert "the process that restores ended" in last
    assert [*tmp_path.iterdir()] == [own]


def test_one_that_cannot_be_made_says_why_each_time():
    with closing(Worker(restorers.unwell)) as worker:
        for _ in range(2):
            with pytest.raises(CheckpointError, match="no weights there"):
                worker.ready()
    with closing(Worker(restorers.deadly)) as worker, pytest.raises(WorkerDied, match="code 7"):
        worker.ready()


FIRST = """
import restorers
from flashdiffusion.app.worker import Worker
from test_worker import _told
worker = Worker(restorers.interrupted)
print(_told(worker, "1"))
worker.close()
"""


def test_an_interrupt_is_the_pages():
    with closing(Worker(restorers.interrupted)) as worker:
        assert _told(worker, "1") == ["0"]
    ended = subprocess.run([sys.executable, "-c", FIRST], env=_env(), capture_output=True, text=True, timeout=120)
    assert ended.stdout == "['0']\n", ended.stderr  # nor does the first process of an interpreter hear it


def test_a_stop_is_heard_while_it_loads(tmp_path):
    with closing(Worker(partial(restorers.slow, tmp_path / "go"))) as worker:

        def tell(word):
            raise Stopped

        with pytest.raises(Stopped):
            worker(_click("1"), tell)
        (tmp_path / "go").touch()
        assert _told(worker, "1") == ["0"]


def test_it_is_closed_in_the_middle_of_a_click():
    worker = Worker(restorers.obedient)
    process = psutil.Process(worker.pid)
    with pytest.raises(WorkerDied):
        worker(_click("1000"), lambda word: worker.close())
    assert not process.is_running()
    with pytest.raises(Stopped):
        worker(_click("1"), print)


PAGE = """
import sys, time
import restorers
from flashdiffusion.app.worker import Worker
worker = Worker(restorers.obedient)
worker.ready()
print(worker.pid, flush=True)
if sys.argv[1] == "busy":
    from test_worker import _click
    worker(_click("100000"), lambda word: None)
time.sleep(60)
"""


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_it_ends_with_the_page(end):
    doing = "busy" if end == signal.SIGKILL else "idle"
    command = [sys.executable, "-c", PAGE, doing]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_env()) as page:
        worker = psutil.Process(int(page.stdout.readline()))
        page.send_signal(end)
    assert psutil.wait_procs([worker], timeout=20)[1] == []


def test_the_pages_process_needs_no_torch():
    record = Record("picture", severity=0.5, start_step=300, nfe=9, gflop=9.0, seconds=1.0, metrics={"psnr": 30.0})
    begun = Begun(Choice(), b"measured", b"map", record, {"psnr": 20.0}, None, 1000)
    outcome = Outcome("flash(proximal)", b"image", record, noise=("proximal", Cost(18, 20.0)))
    done = Done(begun, [outcome], (Column("psnr", "PSNR", True, 3),), "flashdiffusion", b"bundle")
    words = pickle.dumps([begun, Step("proximal", 1, 9, b"image"), Counting("proximal"), done])
    script = f"""
import pickle, sys, tempfile
from pathlib import Path
from flashdiffusion.app import figures, loading, page, serving
from flashdiffusion.app.clicks import Clicks, example
from flashdiffusion.app.limits import Limits
words = pickle.loads({words!r})
assert "PSNR" in figures.results(words[-1]) and "severity" in figures.severity(words[0])
with tempfile.TemporaryDirectory() as folder:
    clicks = Clicks(None, Limits(), Path(folder))
    page.build(clicks)
    clicks.preview(example({FACES!r}), "somebody")
print([name for name in ("torch", "diffusers", "torchmetrics") if name in sys.modules])
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "[]"


def test_the_real_one_restores(tmp_path):
    told: list = []
    with closing(Worker(partial(load, "cpu", None, ()))) as worker:
        worker(Click(Choice(methods=("ae",)), tmp_path, example(FACES), Limits()), told.append)
    told = [word for word in told if word is not None]
    assert [type(word) for word in told] == [Begun, Counting, Done]
    (outcome,) = told[-1].outcomes
    assert outcome.record.metrics["psnr"] > told[0].quality["psnr"]
    assert Image.open(io.BytesIO(outcome.image)).size == (128, 128)
