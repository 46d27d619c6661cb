#!/bin/sh
# Are new weights better than those they replace? benchmarks/weights.sh DATA LPIPS OUT BEFORE [IMAGES]
# BEFORE is the folder of the model that is replaced, e.g. from `git archive COMMIT src/flashdiffusion/assets/faces-128`.
# Both with the same settings, those of the weights that are replaced.
set -eu
data=$1 lpips=$2 out=$3 before=$4 limit=${5:-8}
mkdir -p "$out"
run="flashdiffusion evaluate --data $data --lpips $lpips --seed 0 --limit $limit --precision bfloat16"
for task in gaussian-blur nonlinear-blur random-inpainting; do
    for method in "flash(latent-dps)" ae; do
        name=$task-$(echo "$method" | tr '(' '-' | tr -d ')')
        settings="--task $task --method $method"
        [ "$method" = ae ] || settings="$settings --guidance 8 --correction 0.2" # ae takes none
        $run $settings --model "$before" --out "$out/$name-before.json"
        $run $settings --out "$out/$name-after.json"
    done
done
