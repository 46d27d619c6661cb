"""A service: results of the command line, requests that share steps, jobs, limits, an end that loses nothing."""

import gc
import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import weakref
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from flashdiffusion.cli.serve import _token
from flashdiffusion.client import Client, ServiceError, _seconds
from flashdiffusion.engine.progress import Progress
from flashdiffusion.engine.slots import Slots
from flashdiffusion.errors import InputError
from flashdiffusion.service.answers import Restoration
from flashdiffusion.service.feed import Feed, _Run
from flashdiffusion.service.jobs import StoredJob
from flashdiffusion.service.options import ServiceOptions
from flashdiffusion.service.work import Work
from images import smooth_image
from served import BLUR, ENDLESS, QUICK, STEPS, record_of, running, until

TOKEN = "a-secret-of-this-test"
JSON = {"Accept": "application/json"}


def _png(seed: int = 0, width: int = 32, height: int = 24) -> bytes:
    stream = io.BytesIO()
    smooth_image(np.random.default_rng(seed), width, height).save(stream, "PNG")
    return stream.getvalue()


PICTURE = _png()


def _metric(http, name: str) -> float:
    """The sum of what the metrics say of names that begin so."""
    lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith(f"flashdiffusion_{name}")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def _accepted(client: Client) -> float:
    return _metric(client._http, "pending_requests ") + _metric(client._http, "restorations_total")


def _pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image).astype(int)


@pytest.fixture(scope="module")
def served(local_folder):
    with running(local_folder, keep=60) as found:
        yield found


@pytest.fixture
def client(served):
    with Client(served.url, retries=0) as found:
        yield found


# -- results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["flash(latent-dps)", "flash(proximal)"])
def test_a_result_is_that_of_the_command_line(served, flash, tmp_path, local_folder, method):
    file, out = tmp_path / "face.png", tmp_path / "out"
    file.write_bytes(PICTURE)
    options = BLUR | {"method": method, "steps": "4", "seed": "7"}
    named = [part for key, value in options.items() for part in (f"--{key.replace('_', '-')}", value)]
    ended = flash("restore", file, *named, "--model", local_folder, "--device", "cpu", "--out", out)
    assert ended.code == 0, ended.err
    answer = served.post(PICTURE, options, "face.png")
    assert answer.content == (out / "face.png").read_bytes()
    [record] = json.loads((out / "results.json").read_text())["records"]
    clock = {"seconds", "file"}  # and where its file was
    assert {k: v for k, v in record_of(answer).items() if k not in clock} == {
        k: v for k, v in record.items() if k not in clock
    }
    assert served.post(PICTURE, options | {"seed": "8"}, "face.png").content != answer.content
    assert served.post(PICTURE, options | {"id": "face"}, "other.png").content == answer.content


def test_requests_share_steps_and_none_sees_another(served):
    kinds = [STEPS, STEPS | {"seed": "1"}, QUICK, BLUR | {"method": "gml-dps", "steps": "5"}, STEPS]
    asked = [(_png(n, 32 + 8 * (n % 2), 24), kinds[n % len(kinds)]) for n in range(10)]
    alone = [served.post(*one).content for one in asked]

    def steps() -> dict[float, float]:
        [family] = [
            one
            for one in text_string_to_metric_families(served.http.get("/metrics").text)
            if one.name == "flashdiffusion_step_images"
        ]
        return {float(one.labels["le"]): one.value for one in family.samples if one.name.endswith("_bucket")}

    before = steps()
    with ThreadPoolExecutor(len(asked)) as pool:
        together = [*pool.map(lambda one: served.post(*one).content, asked)]
    for one, other in zip(alone, together, strict=True):
        assert np.abs(_pixels(one) - _pixels(other)).max() <= 1  # products of matrices are rounded by their size
    after = steps()
    assert after[1.0] - before[1.0] < after[float("inf")] - before[float("inf")]  # steps of more than one image


def test_samples_and_maps(served, client):
    found = client.restore(PICTURE, name="a.png", samples=2, maps=True, **BLUR, method="flash(latent-dps)", steps=4)
    assert [one["id"] for one in found.records] == ["a", "a#1"] and found.images[0] != found.images[1]
    single = served.post(PICTURE, BLUR | {"method": "flash(latent-dps)", "steps": "4"}, "a.png")
    assert single.content == found.images[0] and record_of(single)["id"] == found.record["id"]
    assert found.pil(1).size == (32, 24) and [*found.maps] == ["severity"]
    refused = served.post(PICTURE, BLUR | {"samples": "2"})
    assert refused.status_code == 406 and "Accept: application/json" in refused.json()["detail"]
    assert served.post(PICTURE, QUICK, headers={"Accept": "text/html"}).status_code == 406


def test_notes_reach_the_user(served):
    stream = io.BytesIO()
    Image.open(io.BytesIO(PICTURE)).convert("CMYK").save(stream, "JPEG")
    answer = served.post(stream.getvalue(), QUICK, "a.jpg", headers=JSON).json()
    assert answer["notes"] == ["a.jpg has mode CMYK; converted to RGB"]
    assert b64decode(answer["samples"][0]["image"]).startswith(b"\x89PNG")


def test_a_result_that_contradicts_its_picture_is_noted(served):
    wrong = {"physics": "gaussian-blur:std=3", "noise_std": "0.002", "correct_physics": "false", "steps": "3"}
    answer = served.post(PICTURE, wrong, "a.png", headers=JSON).json()
    assert answer["samples"][0]["record"]["consistency"] > 1.5
    [said] = [one for one in answer["notes"] if "farther from their measurements than the noise explains" in one]
    assert said.startswith("1 of 1 images are farther") and "a.png, " in said


def test_a_service_that_is_not_there_is_named():
    with Client("http://127.0.0.1:9", retries=0) as found, pytest.raises(ServiceError) as refused:
        found.restore(PICTURE, physics="gaussian-blur:std=1")
    assert refused.value.status == 0 and "no service answers at http://127.0.0.1:9" in str(refused.value)


def test_a_mask_is_an_attachment(client):
    kept = np.random.default_rng(0).integers(0, 2, (24, 32)) * 255
    stream = io.BytesIO()
    Image.fromarray(kept.astype(np.uint8)).save(stream, "PNG")
    options = {"physics": "random-inpainting:mask=holes.png", "noise_std": 0, "method": "ae"}
    found = client.restore(PICTURE, attachments={"holes.png": stream.getvalue(), "unused.png": b""}, **options)
    assert found.record["degradation"]["physics"] == "random-inpainting"


def test_two_attachments_of_one_name_are_refused(client, tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match=r"2 attachments are called mask\.png"):
        client.restore(PICTURE, attachments=["mask.png", tmp_path / "a" / "mask.png"], **QUICK)


def test_a_time_to_come_again_may_be_a_date():
    assert [_seconds(one) for one in ("7", "", "Fri, 31 Dec 1999 23:59:59 GMT")] == [7, 1, 1]


# -- jobs ----------------------------------------------------------------------------------------------------


def test_a_job_is_polled_and_fetched(served, client):
    options = QUICK | {"maps": "true"}
    job = client.submit(PICTURE, name="a.png", **options)
    found = job.result(30)
    assert found.images == [served.post(PICTURE, QUICK, "a.png").content] and [*found.maps] == ["severity"]
    assert job.status()["state"] == "done"
    job.cancel()
    with pytest.raises(ServiceError, match=r"no such job.*HTTP 404"):
        job.status()


def test_a_job_is_cancelled_and_makes_room(served, client):
    job = client.submit(PICTURE, **ENDLESS)
    until(lambda: job.status()["state"] == "running")
    with pytest.raises(TimeoutError, match="is running"):
        job.result(0.05)
    answer = served.http.get(f"/v1/jobs/{job.id}/images/0")
    assert answer.status_code == 409 and "expected one that is done" in answer.json()["detail"]
    job.cancel()
    until(lambda: served.service.pending == 0)


def test_a_job_that_fails_says_why(client):
    job = client.submit(PICTURE, **BLUR, method="ae", id="a", model="tiny")
    assert job.result(30).record["id"] == "a"
    with pytest.raises(ServiceError, match="unknown model 'photos'"):
        client.submit(PICTURE, **QUICK, model="photos")


def test_what_a_client_that_went_away_asked_for_is_given_up(served):
    host, port = served.url.removeprefix("http://").split(":")
    request = served.http.build_request("POST", "/v1/restore", files={"file": ("a.png", PICTURE)}, data=ENDLESS)
    body = request.read()
    head = f"POST /v1/restore HTTP/1.1\r\nHost: {host}\r\nContent-Type: {request.headers['content-type']}\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: len(served.service.works) == 1)
    until(lambda: served.service.pending == 0)


# -- limits ----------------------------------------------------------------------------------------------------


def test_wrong_options_are_named(served):
    for data, reason in (
        ({"physics": "gausian-blur:std=1"}, "did you mean gaussian-blur"),
        (QUICK | {"physic": "a"}, "unknown field 'physic'; did you mean physics"),
        (QUICK | {"seed": "one"}, "seed: Input should be a valid integer"),
        (QUICK | {"samples": "9"}, "samples: Input should be less than or equal to 8"),
        (BLUR | {"method": "psld:steps=100000"}, "steps is 100000; this service takes at most 1000"),
        (BLUR | {"method": "ae", "guidance": "2"}, "guidance: not used by method ae"),
        (BLUR | {"guidance": "nan"}, "guidance: Input should be a finite number"),
        (BLUR | {"noise_std": "much"}, "noise std is 'much'"),
        (BLUR | {"method": "bound"}, "unknown method 'bound'"),
    ):
        answer = served.post(PICTURE, data)
        assert answer.status_code == 422 and reason in answer.json()["detail"], answer.text
    twice = served.http.post("/v1/restore", files=[("file", ("a.png", PICTURE))] * 2, data=QUICK)
    assert twice.status_code == 422 and "given 2 times" in twice.json()["detail"]
    assert served.http.post("/v1/restore", json={}).status_code == 415
    broken = served.http.post("/v1/restore", content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert broken.status_code == 400 and "the form cannot be read" in broken.json()["detail"]
    assert served.http.get("/nowhere").json() == {
        "type": "about:blank", "title": "Not Found", "status": 404, "detail": "Not Found"
    }  # fmt: skip


def test_one_that_is_full_says_when_to_come_again(local_folder, monkeypatch):
    monkeypatch.setattr("flashdiffusion.service.service.RETRY", 1)
    large = _png(1, 220, 220)
    refused = 'http_requests_total{path="/v1/restore",status="503"} '
    limits = {"max_pending": 2, "max_megapixels": 0.05, "max_pending_megapixels": 0.05}
    with (
        running(local_folder, **limits) as small,
        Client(small.url, retries=0) as client,
        Client(small.url, retries=9) as patient,
    ):
        jobs = [client.submit(large, **ENDLESS)]
        answer = small.post(large, QUICK)
        assert answer.status_code == 503 and "the queue is full (0.0484 megapixels)" in answer.json()["detail"]
        assert small.http.get("/readyz").status_code == 200
        jobs.append(client.submit(PICTURE, **ENDLESS))
        answer = small.post(PICTURE, QUICK)
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        assert "the queue is full (2 requests)" in answer.json()["detail"]
        assert small.http.get("/readyz").status_code == 503 and small.http.get("/healthz").status_code == 200
        with ThreadPoolExecutor(1) as pool:
            before = _metric(small.http, refused)
            waiting = pool.submit(patient.restore, PICTURE, **QUICK)
            until(lambda: _metric(small.http, refused) > before)
            for job in jobs:
                job.cancel()
            assert waiting.result(30).images  # it came again


def test_one_that_takes_too_long_is_given_up(local_folder):
    with running(local_folder, timeout=0.3, keep=2) as hasty:
        answer = hasty.post(PICTURE, ENDLESS)
        assert answer.status_code == 504 and "not done within 0.3 s" in answer.json()["detail"]
        until(lambda: hasty.service.pending == 0)
        with Client(hasty.url, retries=0) as client:
            job = client.submit(PICTURE, **ENDLESS)
            with pytest.raises(ServiceError, match="not done within"):
                job.result(20)
            until(lambda: not hasty.service.jobs.known)  # and it is dropped after a while


def test_the_token_is_asked_for_and_never_told(local_folder, capfd, caplog):
    with running(local_folder, access_log=True, token=TOKEN) as locked:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            answer = locked.post(PICTURE, QUICK, headers=headers)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert [locked.http.get(path).status_code for path in ("/healthz", "/readyz", "/docs", "/metrics")] == [
            200, 200, 200, 401
        ]  # fmt: skip
        with Client(locked.url, token=TOKEN) as client:
            assert client.restore(PICTURE, **QUICK).images
    said = capfd.readouterr()
    assert "POST /v1/restore" in said.out + said.err  # requests are logged
    assert TOKEN not in said.out + said.err + caplog.text + repr(ServiceOptions(token=TOKEN))


def test_limits_that_let_nothing_in_are_refused():
    for name, value in (("max_megapixels", 0), ("timeout", float("nan")), ("keep", -1), ("token", "ü")):
        with pytest.raises(InputError, match=name if name != "token" else "printable ASCII"):
            ServiceOptions(**{name: value})


# -- what is kept ----------------------------------------------------------------------------------------------


def test_what_is_done_holds_no_tensors(served, client, monkeypatch):
    problems, outcomes = [], []

    class Watched(Work):
        def __init__(self, read, pixels):
            super().__init__(read, pixels)
            problems.append(weakref.ref(read.problem))

        def resolve(self, outcome):
            outcomes.append(weakref.ref(outcome))
            super().resolve(outcome)

    monkeypatch.setattr("flashdiffusion.service.service.Work", Watched)
    first, other = (client.submit(PICTURE, **QUICK, seed=seed) for seed in range(2))
    assert first.result(30).images and other.result(30).images
    assert served.post(PICTURE, QUICK).status_code == 200  # an engine knows the last that it gave
    until(lambda: gc.collect() >= 0 and not any(one() for one in (*problems[:2], *outcomes[:2])))
    assert first.result(30).images  # and it is still there


def test_the_oldest_jobs_are_dropped(local_folder):
    with running(local_folder, max_kept=2) as small, Client(small.url, retries=0) as client:
        jobs = [client.submit(PICTURE, **QUICK) for _ in range(3)]
        for job in jobs[1:]:
            assert job.result(30).images
        until(lambda: len(small.service.jobs.known) == 2)
        assert len([*small.service.folder.iterdir()]) == 2


def test_a_job_that_is_deleted_while_it_is_written_leaves_nothing(served, client, monkeypatch):
    writing, deleted = threading.Event(), threading.Event()
    write = StoredJob._write

    def waiting(self, outcome):
        writing.set()
        assert deleted.wait(30)
        self.dropped, dropped = False, self.dropped  # as if it had begun before
        write(self, outcome)
        self.dropped = dropped

    monkeypatch.setattr(StoredJob, "_write", waiting)
    job = client.submit(PICTURE, **STEPS)
    assert writing.wait(30)
    job.cancel()
    deleted.set()
    until(lambda: served.service.pending == 0)
    assert not (served.service.folder / job.id).exists()


def test_a_large_answer_is_made_beside_the_loop(served, monkeypatch):
    threads, of = [], Restoration.of

    def noted(outcome):
        threads.append(threading.current_thread())
        return of(outcome)

    monkeypatch.setattr(Restoration, "of", noted)
    assert served.post(PICTURE, QUICK, headers=JSON).status_code == 200
    assert threads[0] is not threading.main_thread() and "asyncio" in threads[0].name


# -- faults ----------------------------------------------------------------------------------------------------


def test_a_fault_of_the_engine_takes_no_other_request_along(served, monkeypatch, caplog):
    advance = Slots._advance

    def failing(self, chosen):
        if any(one.result.id == "bad" for one in chosen):
            raise RuntimeError("a bug")
        advance(self, chosen)

    monkeypatch.setattr(Slots, "_advance", failing)
    names = ["a", "bad", "b", "c"]
    with ThreadPoolExecutor(4) as pool:
        answers = [*pool.map(lambda name: served.post(PICTURE, STEPS | {"id": name}), names)]
    assert [one.status_code for one in answers] == [200, 500, 200, 200]
    assert answers[1].json()["detail"] == "a fault of the service; it is in its log"
    assert "the engine failed" in caplog.text and served.http.get("/healthz").status_code == 200
    monkeypatch.undo()
    assert served.post(PICTURE, STEPS | {"id": "bad"}).status_code == 200


def test_a_work_that_a_fault_took_is_not_let_go_as_well(served, monkeypatch):
    monkeypatch.setattr(Feed, "_start", lambda self: None)
    done = []
    feed = Feed(served.service.served["tiny"].feed.pipeline, done.append)
    feed.threads, run, work = [], _Run(), Mock(attempts=0)
    run.flying[id(work)] = work
    feed._suspect(run)
    feed._let_go(work, run, "it cannot be used")  # by the thread that makes its batches
    assert [*feed.suspects] == [work] and done == [] and not run.flying


def test_what_was_in_flight_at_a_fault_is_known_to_its_stream_alone(served, monkeypatch):
    seen = []
    begin = Progress.begin

    def noted(self, started):
        seen.append(self)
        begin(self, started)

    def failing(self, chosen):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Progress, "begin", noted)
    with monkeypatch.context() as patch:
        patch.setattr(Slots, "_advance", failing)
        assert served.post(PICTURE, STEPS).status_code == 500
    first, again = seen
    assert first is not again and first is not served.service.served["tiny"].feed.options.progress


def test_streams_are_renewed(served, monkeypatch):
    monkeypatch.setattr("flashdiffusion.service.feed.RENEWED", 2)
    first = served.service.served["tiny"].feed.threads[-1]
    assert [served.post(PICTURE, QUICK).status_code for _ in range(5)] == [200] * 5
    until(lambda: not first.is_alive())


# -- pages -----------------------------------------------------------------------------------------------------


def test_pages_need_no_other_server(served):
    page = served.http.get("/docs").text
    assert not re.search(r'(?:src|href)="https?:', page)
    for path in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert served.http.get(path).status_code == 200
    form = served.http.get("/openapi.json").json()["paths"]["/v1/restore"]["post"]["requestBody"]["content"]
    properties = form["multipart/form-data"]["schema"]["properties"]
    assert {"file", "attachment", "physics", "noise_std", "method", "quality", "guidance", "seed"} <= properties.keys()
    assert properties["physics"]["examples"] == ["gaussian-blur:std=2"]
    about = served.http.get("/v1/about").json()
    assert about["models"] == [{"name": "tiny", "size": None, "device": "cpu"}] and "jpeg" in about["physics"]


# -- the end -----------------------------------------------------------------------------------------------------


def test_a_signal_finishes_what_was_accepted(local_folder, tmp_path):
    command = [sys.executable, "-m", "flashdiffusion", "serve", "--model", local_folder, "--port", "0", "--grace", "20"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            line = process.stderr.readline()
            url = re.search(r"serving model on (http://127.0.0.1:\d+);", line)[1]
            options = BLUR | {"method": "latent-dps", "steps": "100"}
            with Client(url, retries=0) as client, ThreadPoolExecutor(2) as pool:
                jobs = [client.submit(PICTURE, **options, seed=seed) for seed in range(2)]
                direct = pool.submit(client.restore, PICTURE, **options)
                until(lambda: _accepted(client) == 3)  # on their way, or even done
                process.send_signal(signal.SIGTERM)
                until(lambda: client._http.get("/readyz").status_code == 503)
                with pytest.raises(ServiceError, match="shutting down"):
                    client.restore(PICTURE, **QUICK)
                found = [job.result(60).images[0] for job in jobs]
                # Beside others a value may be rounded to the neighbouring level (docs/service.md).
                assert np.abs(_pixels(direct.result(60).images[0]) - _pixels(found[0])).max() <= 1 and len(found) == 2
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert [*tmp_path.glob("flashdiffusion-*")] == []


def test_a_token_may_end_with_its_line(monkeypatch):
    monkeypatch.setenv("FLASHDIFFUSION_TOKEN", f" {TOKEN}\n")
    assert _token(None) == TOKEN


def test_what_cannot_be_served_is_said(flash, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1 port {port}" in flash("serve", "--port", port).err
    assert "no model 'nothing'" in flash("serve", "--port", 0, "--model", "nothing").err
    assert "two models are called photos" in flash("serve", "--model", "photos", "--model", "photos").err
    assert "cannot read the token file" in flash("serve", "--token-file", tmp_path / "token").err
    monkeypatch.setattr("flashdiffusion.cli.serve.find_spec", lambda name: None if name == "uvicorn" else object())
    assert flash("serve").err == 'flashdiffusion: error: serve needs uvicorn: pip install "flashdiffusion[serve]"\n'


# -- docs/service.md -----------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "service.md").read_text()
HERE = "http://127.0.0.1:8000"  # where the page says that the service is


@pytest.fixture
def files(tmp_path, monkeypatch):
    """What the page calls its files."""
    monkeypatch.chdir(tmp_path)
    for name in ("blurred.png", "holes.png"):
        Path(name).write_bytes(PICTURE)
    kept = np.random.default_rng(0).integers(0, 2, (24, 32)) * 255
    Image.fromarray(kept.astype(np.uint8)).save("mask.png")


@pytest.mark.usefixtures("files")
def test_the_code_of_the_page_runs(served, capsys):
    [block] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    exec(compile(block.replace(HERE, served.url), "service.md", "exec"), {})
    assert "422 picture.png: not an image" in capsys.readouterr().out and Path("restored.png").is_file()


@pytest.mark.usefixtures("files")
def test_what_the_page_sends_by_curl_is_taken(served):
    lines = re.findall(r"^curl .*", PAGE, re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line)
        given = [value.partition("=")[::2] for word, value in pairwise(words) if word == "-F"]
        data = {name: value for name, value in given if not value.startswith("@")}
        sent = [(name, (value[1:], Path(value[1:]).read_bytes())) for name, value in given if value.startswith("@")]
        headers = dict(value.split(": ") for word, value in pairwise(words) if word == "-H")
        [path] = [word.removeprefix(HERE) for word in words if word.startswith(HERE)]
        answer = served.http.post(path, files=sent, data=data | {"quality": "fast"}, headers=headers)
        assert answer.status_code == 200, answer.text
        if headers:
            assert len(answer.json()["samples"]) == int(data["samples"])
