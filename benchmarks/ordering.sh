#!/bin/sh
# Does severity rise with the degradation? benchmarks/ordering.sh DATA OUT [IMAGES]
set -eu
data=$1 out=$2 limit=${3:-100}
mkdir -p "$out"
run="flashdiffusion ordering --data $data --levels 10 --limit $limit --seed 0"
for noise in 0.05 0.1 0.2 0.3; do
    $run --task gaussian-blur --noise-std $noise --out "$out/ordering-blur-noise$noise.json"
done
$run --task gaussian-blur --over noise --out "$out/ordering-noise.json"
$run --task random-inpainting --noise-std 0.05 --out "$out/ordering-inpainting.json"
$run --task nonlinear-blur --noise-std 0.05 --out "$out/ordering-nonlinear-blur.json"
