#!/usr/bin/env bash
# The cells of study_conditions.yaml under one changed setting at a time, each over the same seeds. Run again, it continues.
# Usage: experiments/run_conditions.sh cityscapes|voc [SEEDS [OPTION OF confseg study ...]]    (SEEDS as 0-2)
# Only the cells that compare the groups with their controls; the competing losses are for the studies themselves.
# On built-in images, as long as no data set is named; confseg must be on the PATH (.venv/bin). Cost: README.md.
# Results: runs/conditions/NAME/CONDITION/study.md; all of them are printed at the end.
set -euo pipefail

name="${1:?usage: experiments/run_conditions.sh cityscapes|voc [SEEDS [OPTION OF confseg study ...]]}"
seeds="${2:-0-2}"
options=("${@:3}")
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
out="runs/conditions/$name"
cells="subnets_new,control_subnet0_ce,control_subnet0_recall,control_ensemble_recall,control_ensemble_new_unit"
cells+=",control_random_new_unit,subnets_new_unit_product"

# a condition a line: its name, its settings. These change the first stage, so each has baselines of its own
encoder=(
    "encoder-weak baseline.epochs=8"
    "encoder-strong baseline.epochs=100"
    "images-few data.built_in.train=60 baseline.epochs=144 subnets.epochs=40" # as many updates as with 240
)
# and these the groups and heads only: they start from the default's baselines
heads=(
    "training-short subnets.epochs=3"
    "training-long subnets.epochs=40"
    "width-32 subnet.channels=32"
    "width-256 subnet.channels=256"
    "context-small subnet.dilation=1"
    "context-large subnet.dilation=12"
    "context-deep subnet.hidden=2"
    "context-stages subnet.stages=[-2,-1]"
    "groups-found groups.source=auto"
    "groups-of-two groups.source=auto groups.max_group_size=2 groups.max_groups=8"
)

study() { # CONDITION SETTING...
    local arguments=() setting
    for setting in "${@:2}"; do
        arguments+=(--set "$setting")
    done
    confseg study "$name" --study "$here/study_conditions.yaml" --cells "$cells" --seeds "$seeds" --output "$out/$1" --restart \
        ${options[@]+"${options[@]}"} ${arguments[@]+"${arguments[@]}"}
}

copy_default() { # CONDITION: the default's seeds; what a setting changes in them is then made anew
    local seed copy
    mkdir -p "$out/$1"
    for seed in "$out"/default/seed*; do
        copy="$out/$1/$(basename "$seed")"
        [ ! -d "$copy" ] || continue
        rm -rf "$copy.part"
        cp -r "$seed" "$copy.part"
        mv "$copy.part" "$copy"
    done
}

study default
for condition in "${encoder[@]}"; do
    read -ra parts <<<"$condition"
    study "${parts[@]}"
done
for condition in "${heads[@]}"; do
    read -ra parts <<<"$condition"
    copy_default "${parts[0]}"
    study "${parts[@]}"
done
for table in "$out"/*/study.md; do
    printf '\n### %s\n\n' "$(basename "$(dirname "$table")")"
    cat "$table"
done
