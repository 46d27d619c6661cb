"""How damaged is this image? The severity encoder, its loss, and ordering accuracy."""

from flashdiffusion.severity.conditions import Conditions
from flashdiffusion.severity.encoder import Severity, SeverityEncoder
from flashdiffusion.severity.filling import filled, interpolated
from flashdiffusion.severity.loading import check_latents, load_severity_encoder
from flashdiffusion.severity.ordering import ordering_accuracy
from flashdiffusion.severity.patches import PatchSeverityEncoder
from flashdiffusion.severity.picture import coloured, encoded_map, map_picture
from flashdiffusion.severity.target import true_severity

__all__ = [
    "Conditions",
    "PatchSeverityEncoder",
    "Severity",
    "SeverityEncoder",
    "check_latents",
    "load_severity_encoder",
    "coloured",
    "filled",
    "interpolated",
    "encoded_map",
    "map_picture",
    "ordering_accuracy",
    "true_severity",
]
