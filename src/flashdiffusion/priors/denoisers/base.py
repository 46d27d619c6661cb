"""One denoiser convention for every family of networks: latents and times in, the network's prediction out."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from flashdiffusion.data import write_json
from flashdiffusion.errors import CheckpointError, InputError, blamed_on, check_name, shown
from flashdiffusion.priors.folder import load_component, read_json, save_component
from flashdiffusion.priors.refused import reason_for

CONDITIONS = "conditions.json"  # beside the weights
STRONGEST = 100.0  # guidance scale; those in use are below 20


@dataclass(frozen=True)
class Conditions:
    """What a conditional model is told of every image.

    prompt: text that describes the images; "" tells nothing. negative_prompt: text that takes the place of no text, for
    guidance. guidance_scale: w >= 0 of classifier-free guidance, out = without + w (with - without); 1 is off and costs
    half. class_label: a class of the model's; None for its null class.
    """

    prompt: str = ""
    negative_prompt: str = ""
    guidance_scale: float = 1.0
    class_label: int | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "negative_prompt"):
            if not isinstance(text := getattr(self, name), str):
                raise InputError(f"{name} is {shown(text)}; expected text")
        scale, label = self.guidance_scale, self.class_label
        if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 <= scale <= STRONGEST:
            raise InputError(f"guidance_scale is {shown(scale)}; expected a number from 0 to {STRONGEST:g}, 1 for none")
        if label is not None and (not isinstance(label, int) or isinstance(label, bool)):
            raise InputError(
                f"class_label is {shown(label)}; expected the number of a class, or None for the null class"
            )
        if self.negative_prompt and not self.guided:
            raise InputError(
                f"negative_prompt {shown(self.negative_prompt)} with guidance_scale 1, which makes no use of it; "
                "expected a guidance_scale above 1"
            )

    @property
    def guided(self) -> bool:
        """Whether there is classifier-free guidance."""
        return self.guidance_scale != 1

    @property
    def has_text(self) -> bool:
        """Whether there is any text."""
        return bool(self.prompt or self.negative_prompt)

    @property
    def given(self) -> dict[str, Any]:
        """Those that are not the default."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) != one.default}

    @classmethod
    def read(cls, folder: Path) -> "Conditions":
        """Read those that were saved with a denoiser; the default where none were."""
        if not (path := folder / CONDITIONS).is_file():
            return cls()
        values = read_json(path)
        for name in values:
            check_name(f"condition in {path}:", name, [one.name for one in fields(cls)])
        with blamed_on(path):
            return cls(**values)


class Denoiser(nn.Module, ABC):
    """A network of one family, called alike: `denoiser(z, times)` gives its prediction (B, c, h, w).

    A family is a subclass in a file of its own in this folder, registered by the class of diffusers that it calls. It
    says how that is called (`predict`), and, if it is conditional, what it is told (`takes`, `encode`).

    Args:
        model: the network of diffusers.
        folder: of the whole model, where text encoders are; None if there is none.

    Raises:
        InputError: a network of the family's class that works otherwise.
    """

    network: ClassVar[Any]  # the class of diffusers
    takes: ClassVar[Collection[str]] = ()  # fields of Conditions
    prediction: str | None = None  # what it gives, where that is not the scheduler's to say
    told_steps: ClassVar[bool] = False  # whether times are i in 1..N, whatever the scheduler's
    square: ClassVar[bool] = False  # whether latents must be as wide as high
    factor = 1  # pixels per latent entry, set by the prior

    def __init__(self, model: nn.Module, folder: Path | None = None) -> None:
        super().__init__()
        self.model, self.folder = model, folder
        self.conditions = Conditions()
        self._told = 0
        self.check()

    @property
    def config(self) -> Any:
        """The network's."""
        return self.model.config

    @property
    def channels(self) -> int:
        """Channels of the latents that it takes."""
        return int(self.config.in_channels)

    @property
    def channels_out(self) -> int:
        """Channels that it gives; twice as many where it learned the variance too, which is not used."""
        out = self.config.get("out_channels")
        return self.channels if out is None else int(out)

    @property
    def sample_size(self) -> int | None:
        """Side of the latents that it was trained on, if its config says so."""
        side = self.config.get("sample_size")
        return side if isinstance(side, int) else None

    @property
    def unit(self) -> int:
        """Sides of latents are multiples of it."""
        return 1

    @property
    def largest(self) -> int | None:
        """Largest side of latents, if there is one."""
        return None

    @property
    def tokens(self) -> int | None:
        """Patches of an image of its size, for schedules that depend on it."""
        return None if self.sample_size is None else (self.sample_size // self.unit) ** 2

    @property
    def attends(self) -> bool:
        """Whether it has attention: it looks at a whole image of the size that it knows."""
        return any("attention" in type(layer).__name__.lower() for layer in self.model.modules())

    @property
    def about(self) -> dict[str, Any]:
        """What a model's index says of it."""
        return {}

    def check(self) -> None:
        """Raise InputError for a network of the family's class that works otherwise."""

    @abstractmethod
    def predict(self, z: Tensor, times: Tensor, *told: Tensor) -> Tensor:
        """Call the network: z (B, c, h, w), times (B,), and (B, ...) of each tensor that `encode` gives."""

    def encode(self, conditions: Conditions) -> list[Tensor]:
        """Give what the network is told: tensors (2, ...), with the conditions and without."""
        return []

    def set_conditions(self, conditions: Conditions) -> None:
        """Tell it something else from now on.

        Raises:
            InputError: it cannot be told that.
        """
        if strange := [name for name in conditions.given if name not in self.takes]:
            known = ", ".join(self.takes) or "nothing: it is unconditional"
            raise InputError(
                f"{strange[0]} {shown(conditions.given[strange[0]])} given; this model's {self.network.__name__} is "
                f"told {known}"
            )
        with torch.no_grad():
            told = self.encode(conditions)
        place = next(self.model.parameters(), None)
        self._told, self.conditions = len(told), conditions
        for n, one in enumerate(told):
            rows = one if conditions.guided else one[:1]
            dtype = place.dtype if place is not None and one.is_floating_point() else one.dtype
            device = None if place is None else place.device
            self.register_buffer(f"told_{n}", rows.clone().to(device=device, dtype=dtype), persistent=False)

    def forward(self, z: Tensor, times: Tensor) -> Tensor:
        """The network's prediction for z (B, c, h, w), with guidance; times (B,) as its schedule has them."""
        told = [getattr(self, f"told_{n}") for n in range(self._told)]
        if not told:
            return self.predict(z, times)[:, : z.shape[1]]
        count = len(told[0])
        rows = [one.repeat_interleave(len(z), dim=0) for one in told]
        out = self.predict(z.repeat(count, 1, 1, 1), times.repeat(count), *rows)[:, : z.shape[1]]
        if count == 1:
            return out
        given, without = out.chunk(2)
        return without + self.conditions.guidance_scale * (given - without)

    @classmethod
    def load(
        cls,
        folder: Path,
        conditions: Conditions | None = None,
        variant: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load one from its folder in that of a model; raises CheckpointError if it is no such network."""
        model = load_component(cls.network, folder, variant, dtype)
        with blamed_on(folder):
            denoiser = cls(model, folder.parent)
            denoiser.set_conditions(Conditions.read(folder) if conditions is None else conditions)
        return denoiser

    def save(self, folder: Path) -> None:
        """Write the network, and what it is told, into a folder of the model `folder.parent`."""
        save_component(self.model, folder)
        if self.conditions.given:
            write_json(folder / CONDITIONS, asdict(self.conditions))
        else:  # of an earlier model in this folder
            (folder / CONDITIONS).unlink(missing_ok=True)


Family = TypeVar("Family", bound=type[Denoiser])
FAMILIES: dict[str, type[Denoiser]] = {}  # by the class of diffusers


def register_denoiser(cls: Family) -> Family:
    """Let models with this family's network be loaded."""
    FAMILIES[cls.network.__name__] = cls
    return cls


def as_denoiser(model: nn.Module) -> Denoiser:
    """Give a network of diffusers its family's convention; a denoiser is given back.

    Raises:
        InputError: a network of no family, or one that is told text, which needs a whole model's folder.
    """
    if isinstance(model, Denoiser):
        return model
    name = type(model).__name__
    if name not in FAMILIES:
        raise InputError(f"denoiser is a {name}; expected one of {', '.join(FAMILIES)}")
    denoiser = FAMILIES[name](model)
    denoiser.set_conditions(Conditions())
    return denoiser


def load_denoiser(
    folder: Path,
    conditions: Conditions | None = None,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Denoiser:
    """Load the denoiser in a folder of a model; raises CheckpointError for a network of no family."""
    name = read_json(folder / "config.json").get("_class_name")
    if name not in list(FAMILIES):
        raise CheckpointError(
            f"{folder} holds a {shown(name)}{reason_for(name)}; expected one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[str(name)].load(folder, conditions, variant, dtype)
