#!/bin/sh
# What the savings in the gradient cost: benchmarks/savings.sh DATA LPIPS OUT [IMAGES]
# Flash(Latent-DPS) with its preset; where fewer steps are guided, with η as it is and in proportion.
set -eu
data=$1 lpips=$2 out=$3 limit=${4:-8}
mkdir -p "$out"
run="flashdiffusion evaluate --method flash(latent-dps) --data $data --lpips $lpips --seed 0 --limit $limit --precision bfloat16"
for task in gaussian-blur random-inpainting; do
    cell() {
        name=$1
        shift
        [ -e "$out/$task--$name.json" ] || $run --task $task "$@" --out "$out/$task--$name.json"
    }
    cell full
    cell no-jacobian --no-jacobian
    cell every-2 --guide-every 2
    cell every-2-eta-16 --guide-every 2 --guidance 16
    cell every-3 --guide-every 3
    cell light-slope --distilled slope
    cell light-all --distilled all
    cell light-all-eta-4 --distilled all --guidance 4
    cell no-jacobian-light-slope --no-jacobian --distilled slope
    cell no-jacobian-light-all --no-jacobian --distilled all
done
