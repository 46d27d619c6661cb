"""The pages' code and commands run, on made-up images of some dozens of pixels and on all but untrained models.

Blocks of a page run in order, in a folder with what a reader would have. What is only parsed, in `test_docs.py`, are
lines that take hours or other machines: see `DEAR`, `FIGURES` and `ELSEWHERE`.
"""

import os
import shutil
import sys
import tarfile
import types
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

import published.original as original
from flashdiffusion import model
from flashdiffusion.data.named import DATA
from flashdiffusion.methods import SOLVERS
from flashdiffusion.metrics.registry import METRICS
from flashdiffusion.model import PHOTOGRAPHS
from flashdiffusion.physics import PHYSICS, TASKS, KernelWizard
from flashdiffusion.plugins import LOADED
from flashdiffusion.priors import DistilledDecoder, LatentPrior, save_component
from flashdiffusion.published import load_published
from flashdiffusion.solvers.registry import STARTS
from images import smooth_image
from lpips_weights import lpips_weights, package_weights
from pages import COMMANDS, DOCS, NAMES, ROOT, arguments_of, blocks, lines_of, without_plugins
from priors.tiny_families import write_family
from shortened import shorten

SIDE = 32
# Commands that are tried at small size by their own tests; of these, `app` and `serve` run until they are stopped.
DEAR = {"app", "demo", "reproduce", "serve", "train"}
# Lines behind figures: of hundreds of images, with the scripts and data of the one who measured.
FIGURES = {"docs/results.md", "docs/performance.md", "benchmarks/README.md", "CHANGELOG.md"}
# Its lines are those of other pages, beside the paper's words.
AGAIN = {"docs/paper.md"}
ELSEWHERE = ("--engine ray", "runs/pixel", "accelerate launch", "deepinv", "run_on_ray", "flashdiffusion.client")
QUICK = {
    "--limit": "2",
    "--max-nfe": "50",
    "--trials": "2",
    "--steps": "2",
    "--levels": "3",
    "--max-steps": "2",
    "--size": str(SIDE),
}
SMALL = {"faces-128": "tiny", "faces-128-cpu": "tiny", "photos": "tiny-photos", "photos-cpu": "tiny-photos"}


def _runs(page: str, line: str) -> bool:
    """Whether a line is run, and not parsed alone."""
    arguments = arguments_of(line)
    if arguments is None or page in FIGURES | AGAIN or page.startswith("src/") or any(one in line for one in ELSEWHERE):
        return False
    command = without_plugins(arguments)[1][0]
    return "--help" not in arguments and (command not in DEAR or page == "docs/tutorials/train.md")


def _to_run(name: str) -> list[str]:
    """Lines of a page that are run; of the README those that are no other page's."""
    others = (
        [] if name != "README.md" else [line for other in NAMES if other != name for line in lines_of(NAMES[other])]
    )
    return [line for line in lines_of(NAMES[name]) if _runs(name, line) and line not in others]


# The tokenizer of the tiny model reads eight tokens.
pytestmark = pytest.mark.filterwarnings("ignore:.*tokens; tokenizer takes 8")
RUN = [name for name in NAMES if _to_run(name)]
CODE = [name for name, page in NAMES.items() if blocks(page, "python") and name != "docs/quick-start.md"]


@pytest.fixture(scope="session")
def belongings(tmp_path_factory, tiny_model, tiny_photos):
    """What readers of the pages have: pictures, folders of them, checkpoints, weights, models; all small."""
    top = tmp_path_factory.mktemp("belongings")
    images = [smooth_image(_numbers(i), SIDE, SIDE) for i in range(4)]
    for name in ("photo.png", "photo.jpg", "face.png", "face.jpg", "small.png", "noisy.png", "blurred.png"):
        images[0].save(top / name)
    for name in ("dimmed.png", "holes.png", "y.png"):
        images[1].save(top / name)
    mask = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(0)) > 0.3
    images[0].convert("L").point(list(range(256))).save(top / "grey.png")
    _write_mask(mask, top / "mask.png")
    _write_array(images[0], top / "y.npy")
    for folder in ("IMAGES", "DATA", "VAL", "TEST", "TRAIN", "DIR_OR_TAR", "photos", "photographs"):
        (top / folder).mkdir()
        for i, image in enumerate(images[:2]):
            image.save(top / folder / f"photo{i or ''}.png")
    _published_images(top, images)
    for name in ("LPIPS", "lpips_alex.safetensors"):
        save_file(lpips_weights("squeeze"), top / name)
    for name in ("runs/mine", "runs/blur"):
        shutil.copytree(tiny_model, top / name)
    save_component(DistilledDecoder(8, 4, width=8, layers=1), top / "runs/mine/distilled_decoder")
    _checkpoints(top)
    (top / "src/flashdiffusion/assets").mkdir(parents=True)
    images[0].save(top / "src/flashdiffusion/assets/portrait.png")
    return top


def _numbers(seed):
    import numpy as np

    return np.random.default_rng(seed)


def _write_mask(mask, path):
    from PIL import Image

    Image.fromarray((mask.numpy() * 255).astype("uint8")).save(path)


def _write_array(image, path):
    import numpy as np

    np.save(path, np.asarray(image))


def _published_images(top, images):
    """The first two images of each published split, by their names; LSUN's in shards."""
    splits = files("flashdiffusion") / "assets" / "splits"
    for name in ("celebahq", "ffhq"):
        (top / f"{name}-images").mkdir()
        for split in ("test", "val"):
            for i, line in enumerate((splits / f"{name}-{split}.txt").read_text().split()[:2]):
                images[i].save(top / f"{name}-images" / f"{line}.png")
    for i, line in enumerate((splits / "lsun-bedroom-test.txt").read_text().split()[:2]):
        path = top / f"{Path(line).stem}.webp"
        images[i].save(path)
        with tarfile.open(top / f"{i}.tar", "w") as shard:
            shard.add(path, path.name)
    (top / "pets").mkdir()
    for split in ("test", "val"):
        (top / "pets" / f"{split}.txt").write_text("1\n")


def _checkpoints(top):
    """Checkpoints in the published layouts, with random weights."""
    first, unet = original.make_first_stage(), original.make_unet()
    for folder in ("ldm/models/ldm/celeba256", "ldm/models/ldm/ffhq256", "."):
        (top / folder).mkdir(parents=True, exist_ok=True)
        torch.save({"state_dict": original.ldm_tensors(first, unet, None)}, top / folder / "model.ckpt")
        config = yaml.safe_dump(original.ldm_config(first, unet))
        (top / folder / "config.yaml").write_text(config)
    whole: LatentPrior = load_published(top / "model.ckpt")
    whole.save_pretrained(top / "CompVis/ldm-celebahq-256")
    write_family("sd1", top / "stable-diffusion-v1-5/stable-diffusion-v1-5")
    torch.save(original.make_severity(), top / "sevenc_gblur_celeba256.ckpt")
    pixels = original.make_unet(
        multiples=(1, 1, 2, 2, 4, 4), blocks=1, attention=(4,), scale_shift=True, updown=True, out=6
    )
    torch.save(pixels, top / "ffhq_10m.pt")
    torch.save(KernelWizard().state_dict(), top / "GOPRO_wVAE.pth")


@pytest.fixture
def here(belongings, tmp_path, monkeypatch, tiny_model, tiny_photos):
    """A folder of a reader's own, in which small models are embedded; what a page registers is forgotten after it."""
    place = tmp_path / "here"
    shutil.copytree(belongings, place, copy_function=os.link)
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    embedded = {"faces-128": tiny_model, PHOTOGRAPHS: tiny_photos}
    monkeypatch.setattr(model, "_embedded", lambda source: embedded.get(model.embedded_name(source) or ""))
    monkeypatch.setattr(model.Model, "_from_folder", classmethod(_opened_once))
    shorten(monkeypatch)
    tables = (PHYSICS, TASKS, SOLVERS, STARTS, METRICS, DATA, LOADED)
    before = [dict(table) for table in tables]
    yield place
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)


_from_folder = model.Model._from_folder.__func__
_OPENED: dict[object, model.Model] = {}


def _opened_once(cls, folder, *how):
    """Open as usual; a model that is made of the same files only once for all pages."""
    same = cls, frozenset(path.stat().st_ino for path in Path(folder).rglob("*.*")), how
    if same not in _OPENED:
        _OPENED[same] = _from_folder(cls, folder, *how)
    return _OPENED[same]


def _write_files(page):
    for block in blocks(page, "py"):
        Path(block.title).write_text(block.text)


# -- commands -----------------------------------------------------------------------------------------------


def _small(arguments):
    """The same call at the size of a test."""
    plugins, (command, *rest) = without_plugins(arguments)
    options = {name: param for param in COMMANDS[command].params for name in param.opts}
    quick = QUICK | ({"--limit": "1"} if command in {"evaluate", "ordering", "tune"} else {})
    for name, value in quick.items():
        if name in rest:
            rest[rest.index(name) + 1] = value
    if command == "calibrate" and "--save" in rest:
        rest.remove("--save")  # which needs more images than two
    for name in ("--limit", "--trials", "--max-steps"):
        if name in options and name not in rest:
            rest += [name, quick[name]]
    if "--config" in rest:
        place = rest.index("--config") + 1
        rest[place] = SMALL.get(rest[place], rest[place])
    if "--revision" in rest:  # of a hub's model, which a folder is here
        del rest[rest.index("--revision") : rest.index("--revision") + 2]
    if "--lpips" in rest:
        rest[rest.index("--lpips") + 1] = "LPIPS"
    rest = [
        one.replace("celebahq:PATH", "celebahq:celebahq-images").replace("ffhq:PATH", "ffhq:ffhq-images")
        for one in rest
    ]
    for plugin in plugins:
        if (ROOT / plugin).is_file() and not Path(plugin).exists():
            plugins[plugins.index(plugin)] = str(ROOT / plugin)
    return [part for plugin in plugins for part in ("--plugin", plugin)] + [command, *rest]


@pytest.mark.parametrize("name", RUN)
def test_commands_run(name, here, flash):
    _write_files(NAMES[name])
    assert flash("degrade", "photo.png", "--out", "measured").code == 0
    for line in _to_run(name):
        arguments = _small(arguments_of(line))
        _prepare(arguments)
        ended = flash(*arguments)
        assert ended.code == 0, f"{line}\n{' '.join(arguments)}\n{ended.out}{ended.err}"


def _prepare(arguments):
    """Clear the way for a command that would find what an earlier block left, unless it goes on with it."""
    out = Path(arguments[arguments.index("--out") + 1]) if "--out" in arguments else None
    if out and out.exists() and "--resume" not in arguments and arguments[0] != "evaluate":
        shutil.rmtree(out) if out.is_dir() else out.unlink()


# -- Python -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CODE)
def test_python_runs(name, here, started, monkeypatch):
    stand_in = types.ModuleType("lpips")
    stand_in.LPIPS = lambda net: types.SimpleNamespace(state_dict=lambda: package_weights(net))
    monkeypatch.setitem(sys.modules, "lpips", stand_in)
    _write_files(NAMES[name])
    names = {} if name == "README.md" else dict(started)
    ran = 0
    for block in blocks(NAMES[name], "python"):
        if not any(one in block.text for one in ELSEWHERE):
            _run(block, names)
            ran += 1
    assert ran or name in ONLY_ELSEWHERE


def _run(block, names):
    text = block.text.replace("128", str(SIDE)).replace("256, 256", "128, 128").replace("/shared/", "")
    text = text.replace("celebahq:celeba_hq_256", "celebahq:celebahq-images").replace("limit=16", "limit=2")
    exec(compile(text, "page", "exec"), names)


@pytest.fixture(scope="module")
def started(belongings, tiny_model, tmp_path_factory):
    """What the quick start's block leaves: the blocks of other pages go on from it."""
    names: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(belongings)
        shorten(patch)
        patch.setattr(model, "_embedded", lambda source: tiny_model)
        for block in blocks(DOCS / "quick-start.md", "python"):
            _run(block, names)
    return names


# Pages all of whose blocks are run by other tests: tests/jobs, tests/service.
ONLY_ELSEWHERE = {"docs/ray.md", "docs/service.md"}
