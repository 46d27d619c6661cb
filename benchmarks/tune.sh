#!/bin/sh
# The grid behind presets.py: benchmarks/tune.sh DATA LPIPS OUT [PICTURES]
# Flash is tuned on degradations of another seed than the reported figures'. The baseline, a thousand steps a picture, is
# tuned on two pictures, on a 200-step grid and in full.
set -eu
data=$1 lpips=$2 out=$3 limit=${4:-8}
mkdir -p "$out"
run="flashdiffusion evaluate --data $data --lpips $lpips --task gaussian-blur --seed 1"
for eta in 0.5 2 8; do
    $run --method latent-dps --steps 200 --eta $eta --limit 2 --precision bfloat16 --out "$out/latent-dps-eta$eta.json"
done
for eta in 0.3 1 3; do
    flashdiffusion evaluate --data $data --lpips $lpips --task gaussian-blur --seed 0 --method latent-dps --eta $eta \
        --limit 2 --precision bfloat16 --out "$out/latent-dps-1000-eta$eta.json"
done
for eta in 2 4 8 16; do
    $run --method "flash(latent-dps)" --eta $eta --correction 0.5 --limit $limit --out "$out/flash-eta$eta-c0.5.json"
done
for correction in 0 0.2 1.2 2; do
    $run --method "flash(latent-dps)" --eta 8 --correction $correction --limit $limit \
        --out "$out/flash-eta8-c$correction.json"
done
for correction in 0.5; do
    $run --method "flash(latent-dps)" --eta 8 --correction $correction --mixing consistent --limit $limit \
        --out "$out/flash-eta8-c$correction-consistent.json"
done
$run --method ae --limit $limit --out "$out/ae.json"
