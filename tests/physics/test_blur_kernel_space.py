import pytest
import torch
from safetensors.torch import save_file

from flashdiffusion.errors import CheckpointError, InputError
from flashdiffusion.jobs.parse import parse_physics
from flashdiffusion.physics import JPEG, BlurKernelSpace, Compose, KernelWizard, concatenate


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return KernelWizard().requires_grad_(False).eval()


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    """As published: with the kernel extractor, which is not needed here."""
    path = tmp_path_factory.mktemp("weights") / "GOPRO_wVAE.pth"
    torch.save(network.state_dict() | {"kernel_extractor.model.1.weight": torch.zeros(2)}, path)
    return path


def _x(count=2, height=128, width=256):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def _drawn(network, count=2):
    return BlurKernelSpace.draw(network, count, (128, 256), torch.Generator().manual_seed(1), 0.02)


def test_weights_have_the_names_and_shapes_of_the_published_file():
    shapes = {name: tuple(value.shape) for name, value in KernelWizard().state_dict().items()}
    published = {
        "feature_extractor.0.weight": (64, 3, 3, 3),
        "feature_extractor.4.bias": (64,),
        "feature_extractor.15.conv2.weight": (64, 64, 3, 3),
        "adapter.model.down.0.weight": (64, 64, 4, 4),
        "adapter.model.up.1.weight": (128, 64, 4, 4),
        "adapter.model.up.1.bias": (64,),
        "adapter.model.submodule.down.1.weight": (128, 64, 4, 4),
        "adapter.model.submodule.up.1.weight": (256, 64, 4, 4),
        "adapter.model.submodule.submodule.submodule.submodule.down.1.weight": (512, 512, 4, 4),
        "adapter.model.submodule.submodule.submodule.submodule.up.1.weight": (1024, 512, 4, 4),
        "recon_trunk.19.conv1.weight": (64, 64, 3, 3),
        "recon_trunk.20.weight": (256, 64, 3, 3),
        "recon_trunk.23.bias": (256,),
        "recon_trunk.28.weight": (3, 64, 3, 3),
    }
    assert published.items() <= shapes.items()
    adapter = [name for name in shapes if name.startswith("adapter.")]
    assert len(adapter) == 11  # only the outermost transposed convolution has a bias
    assert len(shapes) == 6 + 10 * 4 + 11 + 20 * 4 + 8


def test_blurs_each_image_by_its_own_code(network):
    physics, x = _drawn(network), _x()
    y = physics.A(x)
    assert y.shape == x.shape and float(y.min()) >= 0 and float(y.max()) <= 1
    same = physics.take(torch.tensor([0, 0])).A(x[[0, 0]])
    torch.testing.assert_close(same[0], y[0], rtol=0, atol=1e-5)
    other = physics.take(torch.tensor([1])).A(x[[0]])
    assert float((other - y[:1]).abs().max()) > 1e-4
    assert physics.A(x.double()).dtype == torch.float64


def test_is_differentiable_in_the_image(network):
    x = (0.3 + 0.4 * _x()).requires_grad_()
    (gradient,) = torch.autograd.grad(_drawn(network).A(x).sum(), x)
    assert bool(gradient.isfinite().all()) and float(gradient.abs().max()) > 0


def test_taking_joining_and_moving_keep_the_network(network):
    physics = _drawn(network)
    together = concatenate([physics.take(torch.tensor([i])) for i in (0, 1)])
    assert together.network is network and torch.equal(together.params["code"], physics.params["code"])
    assert torch.equal(physics.to("cpu").params["code"], physics.params["code"])
    composed = Compose(physics, JPEG([50, 50])).take(torch.tensor([1]))
    torch.testing.assert_close(composed.A(_x()[[1]]), JPEG([50]).A(physics.A(_x())[[1]]), rtol=0, atol=0.02)
    with pytest.raises(InputError, match="needs its network"):
        BlurKernelSpace.from_params(physics.params, 0.05)


def test_any_network_will_do():
    physics = BlurKernelSpace(lambda x, code: x + code.mean(dim=(1, 2, 3)).view(-1, 1, 1, 1), torch.ones(2, 512, 1, 2))
    assert torch.equal(physics.A(_x()), torch.ones_like(_x()))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_reads_weights(network, weights, tmp_path, suffix):
    path = weights
    if suffix == ".safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(torch.load(weights, weights_only=True), path)
    read = KernelWizard.from_file(path)
    code = torch.zeros(1, 512, 1, 1)
    assert torch.equal(read(_x(1, 128, 128), code), network(_x(1, 128, 128), code))
    assert not read.training and not any(p.requires_grad for p in read.parameters())


def test_is_named_on_the_command_line(weights):
    physics = parse_physics(f"blur-kernel-space:weights={weights}", (256, 128), torch.Generator().manual_seed(0), 0.1)
    assert physics.params["code"].shape == (1, 512, 2, 1)
    assert float(physics.describe()[0]["code_rms"]) == pytest.approx(1.2, rel=0.1)


def test_refuses_files_that_are_no_such_weights(network, tmp_path):
    weights = network.state_dict()
    less = dict(weights)
    del less["recon_trunk.28.bias"]
    for name, content in {
        "less": less,
        "more": weights | {"surplus": torch.zeros(1)},
        "shape": weights | {"recon_trunk.28.bias": torch.zeros(4)},
        "list": [1, 2],
    }.items():
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(CheckpointError, match=f"{name}.pth holds no weights of the blur-kernel-space network"):
            KernelWizard.from_file(tmp_path / f"{name}.pth")
    (tmp_path / "words.pth").write_text("these are words")
    (tmp_path / "words.safetensors").write_text("these are words")
    for name in ("words.pth", "words.safetensors"):
        with pytest.raises(CheckpointError, match="holds no weights"):
            KernelWizard.from_file(tmp_path / name)
    with pytest.raises(InputError, match=r"expected the published GOPRO_wVAE\.pth"):
        KernelWizard.from_file(tmp_path / "absent.pth")


def test_refuses_codes_and_images_that_do_not_fit(network):
    with pytest.raises(InputError, match="kernel code of shape"):
        BlurKernelSpace(network, torch.zeros(1, 256, 2, 2))
    with pytest.raises(InputError, match="sides of 128 pixels per entry"):
        _drawn(network).A(_x(2, 128, 128))
