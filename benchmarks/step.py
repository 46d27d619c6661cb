"""What a step of Flash(Latent-DPS) with the embedded model costs, part by part.

    python benchmarks/step.py --out FILE                                          # batches 1, 4, 16
    python benchmarks/step.py --out FILE --device cuda --precision bfloat16 --batch 1 16 64 --repeats 20

MFU is the part of the machine's own ceiling, large square matrix products in the same type, that is reached.
"solver.step" is the step as a whole, and "engine step" the same in the engine: noise, slots and bookkeeping included.
"""

from collections.abc import Sequence

import torch

from flashdiffusion import FlashPipeline, Settings
from measure import DTYPES, measure_batches, parser_of


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, [1, 4, 16])
    parser.add_argument("--model", help="latent model; default: the embedded one")
    options = parser.parse_args(arguments)
    pipeline = FlashPipeline.from_pretrained(options.model)
    pipeline.to(torch.device(options.device), DTYPES[options.precision])
    if options.compile:
        pipeline.compile(options.compile)
    side = pipeline.sample_size or 128
    solver, _ = pipeline.method("latent-dps", "noise", Settings())
    measure_batches(options, solver, pipeline.prior.latent_shape((side, side)), {"size": side})


if __name__ == "__main__":
    main()
