"""What a user holds: a model, and what it makes of measurements."""

from flashdiffusion.engine.batch import Batch, Failed, Restored
from flashdiffusion.model import DEFAULT_MODEL
from flashdiffusion.pipeline.pipeline import FlashPipeline
from flashdiffusion.pipeline.restoration import Restoration

__all__ = ["DEFAULT_MODEL", "Batch", "Failed", "FlashPipeline", "Restoration", "Restored"]
