"""Denoisers that are told text: the prompt is encoded once, by the code of diffusers' own pipelines."""

import inspect
import shutil
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.utils import logging
from torch import Tensor

from flashdiffusion.errors import CheckpointError, InputError, blamed_on, shown
from flashdiffusion.priors.denoisers.base import Conditions, Denoiser
from flashdiffusion.priors.folder import read_index, read_json
from flashdiffusion.priors.tensors import read_tensors

_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
_PICKLED = "pytorch_model.bin"
ZEROS_FOR_NO_TEXT = "force_zeros_for_empty_prompt"  # of a model's index: whether zeros stand for no text


class TextDenoiser(Denoiser):
    """A denoiser with text encoders in the folders beside it.

    They run on the CPU, once for each prompt, and are not kept in memory.
    """

    takes = ("prompt", "negative_prompt", "guidance_scale")
    component: ClassVar[str] = "unet"  # the pipeline's argument for the denoiser

    @property
    def encoders(self) -> tuple[str, ...]:
        """Folders of the text encoders that must be there."""
        return ("text_encoder",)

    @property
    @abstractmethod
    def pipeline(self) -> Any:
        """The pipeline of diffusers that encodes prompts for it."""

    def encoders_for(self, conditions: Conditions) -> tuple[str, ...]:
        """The text encoders that such conditions need, of those that are there."""
        return self.encoders

    @property
    def about(self) -> dict[str, Any]:
        return (
            {} if self.folder is None else {k: v for k, v in read_index(self.folder).items() if k == ZEROS_FOR_NO_TEXT}
        )

    def encode(self, conditions: Conditions) -> list[Tensor]:
        """Give (2, tokens, width), and (2, width) of the whole text where the pipeline has that too."""
        encoded = self._encoded(conditions)
        rows = [torch.cat(encoded[n : n + 2]).float() for n in range(0, len(encoded), 2)]
        if rows[0].shape[-1] != (width := self.text_width):
            raise CheckpointError(
                f"{self.folder}: text encoders of {rows[0].shape[-1]} channels beside a {self.network.__name__} that "
                f"is given {width}; expected equal numbers"
            )
        return rows

    @property
    @abstractmethod
    def text_width(self) -> int:
        """Channels of the encoded text that the network is given."""

    def _encoded(self, conditions: Conditions) -> list[Tensor]:
        folder = self._complete_folder()
        parts: dict[str, Any] = {self.component: self.model}
        with _quiet():
            for name in self.encoders_for(conditions):
                parts[name] = _load_encoder(folder / name)
                parts[name.replace("text_encoder", "tokenizer")] = _load_tokenizer(folder, name)
            wanted = inspect.signature(self.pipeline).parameters
            options = {k: v for k, v in self.about.items() if k in wanted}
            options |= {k: False for k in ("requires_safety_checker", "add_watermarker") if k in wanted}
            empty = [name for name, one in wanted.items() if one.default is inspect.Parameter.empty]
            pipeline = self.pipeline(**(dict.fromkeys(empty) | parts | options))
            _warn_of_cuts(pipeline, conditions)
            return self.encoded_by(pipeline, conditions)

    def encoded_by(self, pipeline: Any, conditions: Conditions) -> list[Tensor]:
        """Let the pipeline encode: with the prompt, without; and, if it has that, of the whole text the same."""
        parameters = inspect.signature(pipeline.encode_prompt).parameters.items()
        more = [name for name, one in parameters if name.startswith("prompt_") and one.default is one.empty]

        def encoded(prompt: str, negative: str) -> list[Tensor]:
            return list(
                pipeline.encode_prompt(
                    prompt=prompt,
                    **dict.fromkeys(more),
                    device=torch.device("cpu"),
                    num_images_per_prompt=1,
                    do_classifier_free_guidance=True,
                    negative_prompt=negative or None,
                )
            )

        rows = encoded(conditions.prompt, conditions.negative_prompt)
        if conditions.prompt:
            return rows
        # Without a prompt it is told what it was trained on as no text: of SDXL zeros, of others an empty text.
        nothing = encoded("", "") if conditions.negative_prompt else rows
        return [nothing[n + 1] if n % 2 == 0 else one for n, one in enumerate(rows)]

    def _complete_folder(self) -> Path:
        name = self.network.__name__
        if self.folder is None:
            raise InputError(
                f"a {name} is given text, and this one has no text encoder; expected a prior that "
                "LatentPrior.from_pretrained loads from the folder of the whole model"
            )
        for encoder in self.encoders:
            for part in (encoder, encoder.replace("text_encoder", "tokenizer")):
                if not (self.folder / part).is_dir():
                    raise CheckpointError(
                        f"{self.folder} has a {name}, which is given text, but no folder {part}; expected the whole "
                        "model, with its text encoders and tokenizers"
                    )
        return self.folder

    def save(self, folder: Path) -> None:
        """Write the network, and copy its text encoders and tokenizers."""
        super().save(folder)
        for kind in ("text_encoder*", "tokenizer*"):
            for part in sorted((self.folder or folder.parent).glob(kind)):
                if part.is_dir() and not (to := folder.parent / part.name).exists():
                    shutil.copytree(part, to)


def _warn_of_cuts(pipeline: Any, conditions: Conditions) -> None:
    """Warn of text that is longer than a text encoder reads: the pipeline cuts it, and logs that alone."""
    longest = inspect.signature(pipeline.encode_prompt).parameters.get("max_sequence_length")  # of T5
    for field in ("prompt", "negative_prompt"):
        cut: dict[tuple[int, int], list[str]] = {}
        for name, tokenizer in pipeline.components.items():
            if not name.startswith("tokenizer") or tokenizer is None:
                continue
            most = longest.default if longest is not None and "T5" in type(tokenizer).__name__ else None
            most = tokenizer.model_max_length if most is None else most
            if (count := len(tokenizer(getattr(conditions, field)).input_ids)) > most:
                cut.setdefault((count, most), []).append(name)
        for (count, most), names in cut.items():
            takes = f"{', '.join(names)} takes {most}"
            warnings.warn(f"{field} of {count} tokens; {takes}, and the rest is not read: shorten it", stacklevel=2)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError("models that are given text need transformers: pip install 'flashdiffusion[text]'") from error
    return transformers


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what diffusers and transformers say of parts that are not used, and their bars."""
    logs = [logging, _transformers().logging]
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (verbosity, bars) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()


def _load_encoder(folder: Path) -> Any:
    """Load a text encoder as float32, every weight of it from its file; code in pickled ones is not executed."""
    transformers = _transformers()
    config = read_json(folder / "config.json")
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if name not in list(_ENCODERS):
        raise CheckpointError(f"{folder} holds a {shown(name)}; expected {' or '.join(_ENCODERS)}")
    files = sorted(path.name for path in folder.glob("model*.safetensors*"))
    plain = any(name in files for name in ("model.safetensors", "model.safetensors.index.json"))
    variant = None if plain or not files else files[0].split(".")[1].split("-")[0]
    if not files and (path := folder / _PICKLED).is_file():
        read_tensors(path)  # refuses what holds code
    with blamed_on(folder):
        model, found = getattr(transformers, name).from_pretrained(
            folder, local_files_only=True, output_loading_info=True, dtype=torch.float32, variant=variant
        )
    if missing := sorted(found["missing_keys"]):
        raise CheckpointError(f"{folder} has nothing for {missing[0]}; expected it: is the file complete?")
    return model.requires_grad_(False).eval()


def _load_tokenizer(folder: Path, encoder: str) -> Any:
    transformers = _transformers()
    path = folder / encoder.replace("text_encoder", "tokenizer")
    kind = (
        "T5TokenizerFast"
        if "T5" in str(read_json(folder / encoder / "config.json").get("architectures"))
        else "CLIPTokenizer"
    )
    with blamed_on(path):
        return getattr(transformers, kind).from_pretrained(path, local_files_only=True)
