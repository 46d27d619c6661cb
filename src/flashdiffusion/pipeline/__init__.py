"""What a user holds: a model, and what it makes of measurements."""

from flashdiffusion.engine.batch import Batch, Restored
from flashdiffusion.pipeline.pipeline import DEFAULT_MODEL, FlashPipeline
from flashdiffusion.pipeline.restoration import Restoration

__all__ = ["DEFAULT_MODEL", "Batch", "FlashPipeline", "Restoration", "Restored"]
