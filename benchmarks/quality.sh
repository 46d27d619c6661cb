#!/bin/sh
# Every figure of the embedded model: benchmarks/quality.sh DATA LPIPS OUT
set -eu
data=$1 lpips=$2 out=$3
mkdir -p "$out"
run="flashdiffusion evaluate --data $data --lpips $lpips --task gaussian-blur --seed 0"
$run --method bound --out "$out/bound.json"
$run --method ae --out "$out/ae.json"
flashdiffusion ordering --data "$data" --task gaussian-blur --noise-std 0.05 --levels 10 --limit 100 --out "$out/ordering.json"
$run --limit 16 --method ae --out "$out/ae-16.json"
$run --limit 16 --method "flash(latent-dps)" --out "$out/flash-16.json"
$run --limit 16 --method "flash(latent-dps)" --precision bfloat16 --out "$out/flash-16-bfloat16.json"
$run --limit 16 --method latent-dps --eta 1 --precision bfloat16 --out "$out/latent-dps-16.json"
