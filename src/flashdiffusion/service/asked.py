"""What a request asks for: the words of the command line as fields of a form."""

import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, create_model, model_validator

from flashdiffusion.errors import InputError
from flashdiffusion.jobs import ModelChoice, RestoreJob
from flashdiffusion.jobs.parse import noise_level
from flashdiffusion.methods import all_settings, method_name, named_method, parse_method, split_method

LARGEST_SETTING = 1000  # of whole numbers, which multiply arithmetic
LONGEST = 500  # characters of a field
INT64 = 2**63


class Asked(BaseModel):
    """Options of a restoration, beside its files."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    physics: str | None = Field(
        None,
        max_length=LONGEST,
        description="What damaged the picture, as on the command line: `gaussian-blur:std=2`, "
        "`random-inpainting:mask=mask.png` (the name of an attachment), `A+B` for one after the other. "
        "Measurement files hold their own.",
        examples=["gaussian-blur:std=2"],
    )
    noise_std: str | None = Field(
        None,
        max_length=40,
        description="Noise standard deviation on the [0, 1] scale, or `auto`; default: 0.05.",
        examples=["0.02"],
    )
    method: str | None = Field(
        None,
        max_length=LONGEST,
        description="`flash(proximal)`, `flash(latent-dps)`, `denoise`, `ae`, ...; its settings may follow: "
        "`psld:steps=200,guidance=4`.",
        examples=["flash(proximal)"],
    )
    seed: int = Field(0, ge=-INT64, lt=INT64, description="Seed of everything random.", examples=[0])
    samples: int = Field(1, ge=1, description="How many posterior samples; the first is what one would be.")
    id: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Name of the picture; with the seed it determines the result. Default: the file's name without its "
        "suffix, as on the command line.",
        examples=["blurred"],
    )
    model: str | None = Field(
        None, max_length=LONGEST, description="One of the models of this service; default: its first."
    )
    fit: bool = Field(False, description="Crop and resize the picture to the model's size.")
    maps: bool = Field(False, description="Give a picture of the severity map too.")

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, values: Any) -> Any:
        known = {name for one, field in cls.model_fields.items() for name in (one, *_aliases(field.validation_alias))}
        for name in values if isinstance(values, dict) else ():
            if name not in known:
                near = get_close_matches(name, known, n=3, cutoff=0.5)
                raise ValueError(
                    f"unknown field {name[:80]!r}; {'did you mean ' + ' or '.join(near) if near else 'see /docs'}"
                )
        return values

    @model_validator(mode="after")
    def _readable(self) -> Self:
        for text in (self.physics, self.noise_std, self.method, self.id, self.model):
            if text is not None and not text.isprintable():
                raise ValueError(f"{text!r} has characters that are not printable")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The settings given as fields, by name."""
        return {name: value for name in all_settings() if (value := getattr(self, name, None)) is not None}

    def job(self, model: ModelChoice, physics: str | None) -> RestoreJob:
        """The job that the command line would make of it.

        Args:
            physics: the operator, its files where they lie.

        Raises:
            InputError: values that cannot be used.
        """
        given = self.settings | split_method(self.method or "")[1]
        for name, value in given.items():
            if isinstance(value, int) and value > LARGEST_SETTING:
                raise InputError(f"{name} is {value}; this service takes at most {LARGEST_SETTING}")
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{name} is {value}; expected a finite number")
        method = method_name(*parse_method(named_method(self.method, given)))
        noise = noise_level(self.noise_std)
        return RestoreJob(model, method, physics, noise, self.seed, given, self.fit, maps=self.maps)


def _aliases(alias: object) -> Iterable[str]:
    return [str(one) for one in alias.choices] if isinstance(alias, AliasChoices) else ()


def asked_model(max_samples: int) -> type[Asked]:
    """The options with a field for every setting of the registered methods, as the command line has them."""
    settings: dict[str, Any] = {}
    for name, one in all_settings().items():
        bounds: dict[str, Any] = {"le": LARGEST_SETTING} if one.type is int else {}
        bounds |= {"allow_inf_nan": False} if one.type is float else {}
        bounds |= {"max_length": 40} if one.type is str else {}
        alias = AliasChoices(name, one.alias) if one.alias else None
        settings[name] = (one.type | None, Field(None, description=one.help, validation_alias=alias, **bounds))
    samples = Asked.model_fields["samples"]
    settings["samples"] = (int, Field(1, ge=1, le=max_samples, description=samples.description))
    return create_model("Restoration", __base__=Asked, **settings)
