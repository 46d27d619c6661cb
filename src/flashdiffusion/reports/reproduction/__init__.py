"""The paper's tables and figures, each made anew by one function; `flashdiffusion reproduce` runs them."""

from flashdiffusion.reports.reproduction import curves, mismatch, noise, starts, tables
from flashdiffusion.reports.reproduction.target import TARGETS, Produced, Study, Target

__all__ = ["TARGETS", "Produced", "Study", "Target", "curves", "mismatch", "noise", "starts", "tables"]
