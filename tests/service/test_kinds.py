"""Everything that people upload: handled, or refused with a reason that they can read; the service stays up."""

import io
import re
import struct
import zipfile
import zlib

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from scipy.io import savemat

from flashdiffusion.data import MeasurementFile
from flashdiffusion.jobs.restore import RestoreWorker
from flashdiffusion.model import Model
from served import QUICK, record_of, running, until

SIZE = (32, 24)
PIXELS = np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)
RGB = Image.fromarray(PIXELS)
WEIGHTS = {"physics": "blur-kernel-space:weights=w.pth"}
WEIGHTS_PT = {"physics": "blur-kernel-space:weights=w.pt"}
HOLES = QUICK | {"physics": "random-inpainting:mask=mask.png"}


def _file(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _saved(write, *arrays, **named) -> bytes:
    stream = io.BytesIO()
    write(stream, *arrays, **named)
    return stream.getvalue()


def _saved_tensor(value) -> bytes:
    return _saved(lambda stream: torch.save(value, stream))


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _file(RGB, "JPEG", exif=exif)


def _declaring(width: int, height: int) -> bytes:
    """A PNG that says that it is larger than it is."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _zip_bomb() -> bytes:
    """A small .npz of a header and much more of nothing."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("y.npy", _saved(np.save, np.zeros((3, 1000, 2000), np.uint8)))
    return stream.getvalue()


def _measurement(tmp_path, value: float = 0.5, **changes) -> bytes:
    path = tmp_path / "m.safetensors"
    y = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
    y[0, 0, 0] = value
    params = changes.pop("params", {"std": torch.ones(1)})
    MeasurementFile("m", y, changes.pop("physics", "gaussian-blur"), params, 0.02).save(path)
    return path.read_bytes()


def _of_sixteenth(tmp_path) -> bytes:
    return _measurement(tmp_path, physics="super-resolution", params={"factor": torch.tensor([16.0])})


def _with_nan() -> np.ndarray:
    array = PIXELS.astype(np.float32) / 255
    array[3, 4, 1] = np.nan
    return array


def _mask(*size: int, levels: int = 2) -> bytes:
    values = np.random.default_rng(2).integers(0, levels, size) * (255 // (levels - 1))
    return _file(Image.fromarray(values.astype(np.uint8)))


WHOLE, FLOATS = _file(RGB), PIXELS.astype(np.float32) / 255

# Name of the file, its content, and the size (width, height) and mode of what comes back.
HANDLED = {
    "jpeg": ("a.jpg", lambda: _file(RGB, "JPEG"), SIZE, "RGB"),
    "jpeg named .png": ("a.png", lambda: _file(RGB, "JPEG"), SIZE, "RGB"),
    "without a suffix": ("picture", lambda: WHOLE, SIZE, "RGB"),
    "16 bits": ("a.png", lambda: bytes(imagecodecs.png_encode(PIXELS.astype(np.uint16) * 257)), SIZE, "RGB"),
    "16 bits, grey": ("a.png", lambda: _file(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)), SIZE, "I;16"),
    "cmyk": ("a.jpg", lambda: _file(RGB.convert("CMYK"), "JPEG"), SIZE, "RGB"),
    "animated": ("a.gif", lambda: _file(RGB, "GIF", save_all=True, append_images=[RGB.rotate(90)]), SIZE, "RGB"),
    "rotated by exif": ("a.jpg", _rotated, SIZE[::-1], "RGB"),
    "palette": ("a.png", lambda: _file(RGB.quantize(16)), SIZE, "RGB"),
    "alpha": ("a.png", lambda: _file(RGB.convert("RGBA")), SIZE, "RGBA"),
    "one bit": ("a.png", lambda: _file(RGB.convert("1")), SIZE, "L"),
    "tiny": ("a.png", lambda: _file(RGB.resize((6, 5))), (6, 5), "RGB"),
    "trailing bytes": ("a.png", lambda: WHOLE + b"more of it", SIZE, "RGB"),
    "two dots": (" ..", lambda: WHOLE, SIZE, "RGB"),
    "a dot": (" .", lambda: WHOLE, SIZE, "RGB"),
    "unprintable name": ("..\\../\x1b[31m é\u202e.png", lambda: WHOLE, SIZE, "RGB"),
    "npy of floats": ("y.npy", lambda: _saved(np.save, FLOATS), SIZE, "RGB"),
    "grey npy": ("y.npy", lambda: _saved(np.save, FLOATS[..., 0]), SIZE, "L"),
    "npz": ("y.npz", lambda: _saved(np.savez_compressed, y=PIXELS, other=PIXELS), SIZE, "RGB"),
    "tensor": ("y.pt", lambda: _saved(lambda stream: torch.save(torch.from_numpy(FLOATS), stream)), SIZE, "RGB"),
    "matlab": ("y.mat", lambda: _saved(savemat, {"y": FLOATS}), SIZE, "RGB"),
    "measurement": ("y.safetensors", _measurement, SIZE, "RGB"),
}

# Name of the file, its content, options, attachments, status, and what the reason says.
REFUSED = {
    "text named .png": ("a.png", lambda: b"these are words", QUICK, [], 422, r"a\.png: not an image"),
    "svg": ("a.svg", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", QUICK, [], 422, "not an image"),
    "empty": ("a.png", lambda: b"", QUICK, [], 422, "not an image"),
    "truncated": ("a.png", lambda: WHOLE[: len(WHOLE) // 2], QUICK, [], 422, "truncated"),
    "truncated jpeg": ("a.jpg", lambda: _file(RGB, "JPEG")[:700], QUICK, [], 422, "truncated"),
    "bomb": ("a.png", lambda: _declaring(60_000, 60_000), QUICK, [], 413, "too large"),
    "huge": ("a.png", lambda: _declaring(300, 200), QUICK, [], 413, r"0\.06 megapixels; expected at most 0\.05"),
    "many bytes": ("a.png", lambda: WHOLE + bytes(10**6), QUICK, [], 413, "expected at most 1 MB"),
    "zip bomb": ("y.npz", _zip_bomb, QUICK, [], 413, "2 megapixels"),
    "no such suffix of an array": ("y.npy", lambda: WHOLE, QUICK, [], 422, "damaged, or holds no measurement"),
    "pickled objects": ("y.npy", lambda: _saved(np.save, np.array([{}], dtype=object)), QUICK, [], 422, "OBJECT"),
    "nan": ("y.npy", lambda: _saved(np.save, _with_nan()), QUICK, [], 422, "NaN or infinite values"),
    "0 to 255": ("y.npy", lambda: _saved(np.save, FLOATS * 255), QUICK, [], 422, "divide them by 255"),
    "too many axes": ("y.npy", lambda: _saved(np.save, FLOATS[None, None]), QUICK, [], 422, "expected one measurement"),
    "one pixel": ("a.png", lambda: _file(RGB.resize((1, 1))), QUICK, [], 422, "expected at least"),
    "nan in a measurement": ("y.safetensors", lambda tmp: _measurement(tmp, float("nan")), {}, [], 422, "NaN"),
    "a measurement of nobody": (
        "y.safetensors",
        lambda tmp: _measurement(tmp, physics="no"),
        {},
        [],
        422,
        "made by 'no'",
    ),
    "weights": ("y.safetensors", lambda: save({"a": torch.ones(2)}), {}, [], 422, "no measurement"),
    "its result is huge": ("y.safetensors", lambda tmp: _of_sixteenth(tmp), {}, [], 413, "too large"),
    "no physics": ("a.png", lambda: WHOLE, {}, [], 422, "say what damaged it"),
    "a mask that is drawn": (
        *("a.png", lambda: WHOLE, {"physics": "random-inpainting:ratio=0.5"}, [], 422),
        "one must know which pixels are lost",
    ),
    "no mask": ("a.png", lambda: WHOLE, HOLES, [], 422, r"names the file 'mask\.png'; expected the name of an attach"),
    "wrong mask": ("a.png", lambda: WHOLE, HOLES, [("mask.png", _mask(24, 30))], 422, "24 x 30"),
    "a mask of many levels": (
        "a.png",
        lambda: WHOLE,
        HOLES,
        [("mask.png", _mask(24, 32, levels=5))],
        422,
        "levels|lie between",
    ),
    "a mask that is text": ("a.png", lambda: WHOLE, HOLES, [("mask.png", b"words")], 422, r"mask\.png: not an image"),
    "weights of a network": (
        *("a.png", lambda: WHOLE, QUICK | WEIGHTS, [("w.pth", _saved_tensor({"a": torch.ones(2)}))], 422),
        r"w\.pth: not an image or array",
    ),
    "weights for a measurement": (
        *(
            "y.safetensors",
            lambda tmp: _measurement(tmp),
            WEIGHTS_PT,
            [("w.pt", _saved_tensor({"a": torch.ones(2)}))],
            422,
        ),
        r"w\.pt: not an image or array",
    ),
    "a network": (
        *("a.png", lambda: WHOLE, QUICK | {"physics": "blur-kernel-space:weights=w.png"}, [("w.png", WHOLE)], 422),
        "to restore an image one must know",
    ),
    "the server's own file": (
        *("a.png", lambda: WHOLE, QUICK | {"physics": "random-inpainting:mask=/etc/passwd"}, [], 422),
        "expected the name of an attachment",
    ),
}


@pytest.fixture(scope="module")
def served(local_folder):
    with running(local_folder, max_megabytes=1, max_megapixels=0.05, max_pending_megapixels=1) as found:
        yield found


@pytest.mark.parametrize("kind", HANDLED)
def test_it_is_handled(served, tmp_path, kind):
    name, content, size, mode = HANDLED[kind]
    data = content(tmp_path) if content is _measurement else content()
    answer = served.post(data, {} if content is _measurement else QUICK, name)
    assert answer.status_code == 200, answer.text
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.size, image.mode) == (size, mode)
    assert not re.search(r"[\\/]|\x1b", record_of(answer)["file"])
    assert str(served.service.folder) not in str(answer.headers)


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused_with_a_reason(served, tmp_path, kind):
    name, content, options, attachments, status, reason = REFUSED[kind]
    data = content(tmp_path) if content.__code__.co_argcount else content()
    answer = served.post(data, options, name, attachments=attachments)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code and re.search(reason, problem["detail"]), problem
    assert str(served.service.folder) not in problem["detail"] and "\n" not in problem["detail"]


def test_a_file_may_be_called_as_the_folder_of_attachments(served):
    answer = served.post(WHOLE, HOLES, "attached", attachments=[("mask.png", _mask(24, 32))])
    assert answer.status_code == 200 and record_of(answer)["file"] == "attached", answer.text


def test_a_long_picture_is_refused_where_it_is_not_cut(served, monkeypatch):
    long = _file(RGB.resize((3000, 16)))
    assert served.post(long, QUICK).status_code == 200  # in tiles
    monkeypatch.setattr(Model, "attends", True)
    answer = served.post(long, QUICK)
    assert answer.status_code == 413 and "16 x 3000 pixels; expected at most 2048" in answer.json()["detail"]


@pytest.mark.parametrize(("error", "status"), [(MemoryError(), 413), (OSError(28, "No space left"), 503)])
def test_what_the_machine_lacks_is_said(served, monkeypatch, error, status):
    def fail(self, item):
        raise error

    monkeypatch.setattr(RestoreWorker, "read_checked", fail)
    answer = served.post(WHOLE, QUICK)
    assert answer.status_code == status and answer.json()["detail"].startswith("picture.png: ")


def test_a_request_that_does_not_say_how_long_it_is(served):
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    parts = (part for part in (head, *[bytes(10**5)] * 20))
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = served.http.post("/v1/restore", content=parts, headers=kind)
    assert answer.status_code == 413 and "expected at most 1 MB" in answer.json()["detail"]


def test_the_service_is_as_it_was(served):
    first, again = (served.post(WHOLE, QUICK) for _ in range(2))
    assert first.status_code == 200 and first.content == again.content
    assert served.http.get("/healthz").json() == {"status": "ok"}
    until(lambda: served.service.pending == 0 and served.service.pending_pixels == 0)
    assert [*served.service.folder.iterdir()] == []  # nothing that was sent is left
