#!/bin/sh
# The embedded model's own figures, beside the table's: benchmarks/quality.sh DATA LPIPS OUT [IMAGES]
# The autoencoder alone, the severity encoder on blur, and one baseline in full (its images: 8 unless said otherwise).
set -eu
data=$1 lpips=$2 out=$3 limit=${4:-8}
mkdir -p "$out"
run="flashdiffusion evaluate --data $data --lpips $lpips --task gaussian-blur --seed 0"
$run --method bound --out "$out/bound.json"
$run --method ae --out "$out/ae.json"
$run --limit "$limit" --method latent-dps --precision bfloat16 --out "$out/latent-dps-full.json"
