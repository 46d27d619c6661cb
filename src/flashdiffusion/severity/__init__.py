"""How damaged is this image? The severity encoder, its loss, and ordering accuracy."""

from flashdiffusion.severity.encoder import Severity, SeverityEncoder
from flashdiffusion.severity.ordering import ordering_accuracy
from flashdiffusion.severity.target import true_severity

__all__ = ["Severity", "SeverityEncoder", "ordering_accuracy", "true_severity"]
