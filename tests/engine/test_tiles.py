"""Pictures restored in tiles: the same where everything is local, and gathered whatever becomes of a tile."""

import math
from dataclasses import replace

import pytest
import torch

from flashdiffusion import (
    JPEG,
    Compose,
    Denoising,
    GaussianBlur,
    RandomInpainting,
    SuperResolution,
)
from flashdiffusion.data import load_image
from flashdiffusion.engine import gathering, starting
from flashdiffusion.engine.batch import Batch, Failed
from flashdiffusion.engine.slots import Slots
from flashdiffusion.engine.tiling import TileMap
from flashdiffusion.errors import InputError
from flashdiffusion.physics import HDR, Mixed, PhaseRetrieval
from flashdiffusion.severity import coloured
from local_model import local_pipeline

SIZE = (92, 140)


@pytest.fixture(scope="module")
def pipe():
    return local_pipeline()


def _picture(size=SIZE, count=1, seed=0):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def _measured(physics, size=SIZE, count=1):
    return physics(_picture(size, count), torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "physics",
    [
        Denoising(0.05),
        GaussianBlur(1.0),
        RandomInpainting.from_ratio(0.3, SIZE, torch.Generator().manual_seed(0)),
        JPEG(50.0),
        SuperResolution(2),
        Compose(GaussianBlur(0.5), SuperResolution(2)),
        HDR(1.5),
    ],
    ids=lambda physics: physics.names[0],
)
def test_what_is_local_is_the_same_in_tiles(pipe, physics):
    y = _measured(physics)
    whole = pipe(y, physics, method="ae", tile=0)
    tiled = pipe(y, physics, method="ae", tile=80)
    assert whole.tiles == () and len(tiled.tiles) == 1
    assert tiled.images.shape == (1, 3, *SIZE)
    torch.testing.assert_close(tiled.images, whole.images, rtol=0, atol=1e-5)


def test_the_result_tells_of_each_tile(pipe, tmp_path):
    y = _measured(Denoising(0.2))
    y[..., :60] *= 0.1
    found = pipe(y, Denoising(0.2), tile=48, ids=["a"], steps=6)
    (tiles,) = found.tiles
    assert tiles.severity.shape == tiles.start_step.shape == tiles.nfe.shape == (len(tiles.rows), len(tiles.columns))
    assert tiles.rows[0][0] == tiles.columns[0][0] == 0 and (tiles.rows[-1][1], tiles.columns[-1][1]) == SIZE
    area = torch.tensor([[(b - a) * (d - c) for c, d in tiles.columns] for a, b in tiles.rows], dtype=torch.float64)
    assert float(found.nfe) == pytest.approx(float((area * tiles.nfe).sum() / area.sum()), rel=1e-6)
    assert found.severity_maps.shape == (1, 46, 70)
    assert float(found.severity) == pytest.approx(float(found.severity_maps.mean()), rel=1e-6)
    assert float(found.gflop) > 0 and float(found.seconds) > 0
    plain = tiles.plain()
    assert plain["rows"][0] == list(tiles.rows[0]) and len(plain["severity"]) == len(tiles.rows)
    found.save(tmp_path / "out", maps=tmp_path / "maps")
    for path in (tmp_path / "maps" / "a.png", tmp_path / "maps" / "steps" / "a.png"):
        assert load_image(path).shape == (3, *SIZE)


def test_the_result_depends_on_seed_and_name_alone(pipe):
    physics, options = GaussianBlur(0.5, 0.1), {"tile": 48, "steps": 5, "method": "latent-dps"}
    y = _measured(physics)
    one = pipe(y, physics, ids=["a"], max_in_flight=1, **options)
    for count in (3, None):
        other = pipe(y, physics, ids=["a"], max_in_flight=count, **options)
        torch.testing.assert_close(other.images, one.images, rtol=0, atol=2e-3)
        assert torch.equal(other.tiles[0].nfe, one.tiles[0].nfe)
    assert not torch.allclose(pipe(y, physics, ids=["b"], **options).images, one.images, atol=1e-2)


def test_a_whole_image_is_the_same_whatever_tiles_there_are(pipe):
    physics, y = GaussianBlur(0.5, 0.1), _picture((44, 48))
    one = pipe(y, physics, ids=["a"], steps=5)
    other = pipe(y, physics, ids=["a"], steps=5, tile=48)
    assert torch.equal(one.images, other.images) and other.tiles == ()


def test_samples_of_a_picture_are_each_put_together(pipe):
    found = pipe(_measured(Denoising(0.1)), Denoising(0.1), tile=64, num_samples=2, steps=4, method="latent-dps")
    assert found.samples.shape == (2, 1, 3, *SIZE)
    assert float((found.samples[0] - found.samples[1]).abs().mean()) > 1e-3


def test_tiles_and_images_of_all_kinds_share_a_stream(pipe):
    physics = Mixed([(torch.tensor([0, 2]), Denoising([0.1, 0.05])), (torch.tensor([1]), PhaseRetrieval(0.0))])
    y = _picture((88, 88), 3)
    batches = [
        Batch(["a", "b", "c"], y, physics),
        Failed("d", "gone"),
        Batch(["e"], _picture((40, 40)), Denoising(0.1)),
        Batch(["f"], _picture(), Denoising(0.1), extra=["kept"]),
    ]
    found = {one.id: one for one in pipe.stream(batches, method="ae", tile=64)}
    assert [found[name].index for name in "abcdef"] == [0, 1, 2, 3, 4, 5]
    assert [found[name].tiles is not None for name in "abcdef"] == [True, False, True, False, False, True]
    assert found["d"].failed == "gone" and found["f"].extra == "kept"
    assert found["a"].image.shape == (3, 88, 88) and found["f"].image.shape == (3, *SIZE)


@pytest.mark.parametrize("method", ["ae", "flash(latent-dps)"])
def test_one_failed_tile_fails_its_picture_with_the_reason(pipe, method):
    steps = {} if method == "ae" else {"steps": 3}
    y = _measured(Denoising(0.1))
    y[0, 0, 80, 130] = float("nan")
    given = Batch(["bad"], y, Denoising(0.1)), Batch(["good"], _measured(Denoising(0.1)), Denoising(0.1))
    found = {one.id: one for one in pipe.stream(given, method=method, tile=48, max_in_flight=2, **steps)}
    assert found["bad"].failed.startswith("NaN or infinite values in the measurement")
    assert found["bad"].failed.endswith("(tile in row 3, column 4 of 3 rows and 4 columns)")
    assert found["bad"].image is None and found["good"].image is not None


def test_a_tile_that_diverges_stops_the_others(pipe, monkeypatch):
    started, finish = [], gathering.RestoredTile.finish

    def failing(tile, image):
        if tile.place == (0, 0):
            tile.fail("no image")
        else:
            finish(tile, image)

    monkeypatch.setattr(gathering.RestoredTile, "finish", failing)
    make = starting.tiles_of
    monkeypatch.setattr(starting, "tiles_of", lambda *a: (started.append(one) or one for one in make(*a)))
    monkeypatch.setattr(gathering, "TOGETHER", 1)
    (one,) = pipe.stream([Batch(["a"], _picture((200, 300)), Denoising(0.1))], method="ae", tile=32, max_in_flight=1)
    assert one.failed.startswith("no image (tile in row 1, column 1 of")
    assert len(started) < 20


def test_tiles_are_made_as_slots_come_free(pipe, monkeypatch):
    held = []
    receive = Slots._receive

    def counted(slots, batch):
        more = receive(slots, batch)
        held.append(len(slots.waiting) + len(slots.slots))
        return more

    monkeypatch.setattr(Slots, "_receive", counted)
    physics = Denoising(0.3)
    batch = Batch(["a"], _measured(physics, (200, 400)), physics)
    (one,) = pipe.stream([batch], method="latent-dps", tile=32, max_in_flight=2, steps=2)
    assert one.tiles.nfe.numel() > 100 and max(held) <= 2 + 4 * 2 + gathering.TOGETHER


def test_a_physics_of_the_whole_picture_is_not_cut(pipe, monkeypatch):
    y = _picture()
    assert pipe(y, PhaseRetrieval(0.0), method="ae", tile=48).tiles == ()
    assert pipe(y, lambda x: x, method="ae", tile=48).tiles == ()

    def full(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(starting.Starting, "_by_rule", full)
    (one,) = pipe.stream([Batch(["a"], y, PhaseRetrieval(0.0))], method="ae", tile=48)
    assert one.failed == (
        "out of memory, even alone; phase-retrieval cannot be cut into tiles: a measurement may depend on the whole "
        "picture"
    )


def test_a_tile_smaller_than_the_halo_is_refused(pipe):
    with pytest.raises(InputError, match="tile is 32; expected at least"):
        pipe(_picture(), GaussianBlur(4.0), tile=32)


@pytest.mark.parametrize("tile", [-1, 2.5])
def test_a_tile_that_is_none_is_refused(pipe, tile):
    with pytest.raises(InputError, match=f"tile is {tile}; expected whole pixels"):
        pipe.stream([], tile=tile)


def test_a_mask_of_another_size_is_refused(pipe):
    physics = RandomInpainting(torch.ones(1, 1, 200, 200))
    with pytest.raises(InputError, match=r"with a mask of .*: crop and resize the mask as its image was"):
        pipe(_picture(), physics, tile=48)


def test_without_a_size_only_a_model_without_attention_cuts_and_only_large_pictures(pipe, tiny_pipeline):
    large = (1100, 40)
    assert tiny_pipeline.attends and not pipe.attends
    assert pipe.tile_for(large, Denoising()) == 256 and tiny_pipeline.tile_for(large, Denoising()) == 0
    assert pipe.tile_for((1024, 40), Denoising()) == 0
    assert pipe.tile_for((2000, 2000), GaussianBlur(10.0)) == 640
    assert tiny_pipeline.tile_for((64, 64), Denoising(), 32) == 32
    found = pipe(_picture(large), Denoising(0.1), method="ae")
    assert found.tiles[0].nfe.shape == (5, 1)
    assert pipe(_picture(large), Denoising(0.1), method="ae", tile=0).tiles == ()


def test_the_embedded_model_is_never_cut_by_itself():
    from flashdiffusion.model import Model

    assert Model.from_pretrained().attends


def test_the_steps_of_tiles_are_a_picture():
    steps = torch.tensor([[9, 100], [0, 1000]])
    tiles = TileMap(((0, 8), (4, 12)), ((0, 10), (8, 14)), torch.full((2, 2), torch.nan), torch.zeros(2, 2), steps)
    picture = tiles.picture
    assert picture.shape == (3, 12, 14)
    nine = math.log(10) / math.log(101)
    for row, column, share in ((0, 0, nine), (5, 8, nine), (5, 9, 1.0), (6, 8, 0.0), (11, 13, 1.0)):
        assert picture[:, row, column].tolist() == pytest.approx(coloured(torch.tensor([[share]]))[:, 0, 0].tolist())
    # Equal steps have equal colours, whatever the other tiles of a picture take.
    few = replace(tiles, nfe=torch.tensor([[9, 3], [2, 1]])).picture
    assert torch.equal(few[:, :5, :5], picture[:, :5, :5])
    none = replace(tiles, nfe=torch.zeros_like(steps)).picture
    assert bool((none == coloured(torch.zeros(12, 14))).all())


def test_what_an_earlier_run_kept_is_no_image_of_a_start(pipe, tmp_path):
    batch = Batch(["a"], _measured(Denoising(0.05)), Denoising(0.05), kept=[tmp_path])
    [restored] = pipe.stream([batch], method="ae", tile=48)
    assert restored.image is not None and [*tmp_path.glob("*.safetensors")]
    [begun] = pipe.begin([batch], tile=48)
    assert begun.image is None and begun.severity_map.shape == (46, 70)
