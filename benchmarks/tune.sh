#!/bin/sh
# The grid behind presets.py: benchmarks/tune.sh DATA LPIPS OUT [PICTURES]
# Degradations are drawn with another seed than the reported figures'. The baseline is tuned on a 500-step grid.
set -eu
data=$1 lpips=$2 out=$3 limit=${4:-8}
run="flashdiffusion evaluate --data $data --lpips $lpips --seed 1 --limit $limit"
for task in gaussian-blur; do
    for eta in 0.3 1 3; do
        $run --task $task --method latent-dps --steps 500 --eta $eta --limit 4 --out "$out/$task-latent-dps-eta$eta.json"
    done
    for correction in 0.5 0.8 1.2; do
        for eta in 0.5 1 2; do
            $run --task $task --method "flash(latent-dps)" --eta $eta --correction $correction \
                --out "$out/$task-flash-eta$eta-c$correction.json"
        done
    done
    $run --task $task --method "flash(latent-dps)" --mixing consistent --correction 0.5 \
        --out "$out/$task-flash-consistent-c0.5.json"
done
