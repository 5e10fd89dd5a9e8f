#!/usr/bin/env bash
# Prepares the environment, then runs `confseg run` in it.
set -euo pipefail

usage() {
    cat <<'EOF'
usage: tools/run_experiment.sh NAME [--data-root DIR] [--output DIR] [--gpus 0,1 | --cpu] [--seed N] [--set key=value ...] [--restart]

Runs the whole method: baseline training, confusion matrix, groups, subnets, fused evaluation. Run again, it continues.

  NAME             cityscapes, voc, camvid, or the path of a YAML
  --data-root DIR  the data set (default: CITYSCAPES_DATASET, VOC_ROOT or CAMVID_ROOT, else built-in synthetic data)
  --output DIR     folder of the results (default: runs/NAME-seedN)
  --gpus 0,1       GPUs to use (default: all that MXNet can use, else the CPU)
  --cpu            use the CPU
  --seed N         seed of the run
  --set KEY=VALUE  change a setting of the YAML; may be repeated
  --restart        redo the finished stages whose settings have changed, and what follows

Environment: PYTHON (a Python 3.8 to 3.13), CONFSEG_VENV (folder of the virtual environment;
default: .venv in the checkout, .venv-gpu where an NVIDIA driver is found and --cpu is not given).
EOF
}

cpu=""
for argument in "$@"; do
    case "$argument" in
    -h | --help)
        usage
        exit 0
        ;;
    --cpu) cpu=yes ;;
    esac
done
[ $# -gt 0 ] || {
    usage >&2
    exit 2
}

# shellcheck source=tools/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
find_python
flavour=cpu venv="$ROOT/.venv"
if [ -z "$cpu" ] && has_nvidia_driver; then
    flavour=gpu venv="$ROOT/.venv-gpu"
fi
venv="$(venv_folder "$venv")"
prepare_environment "$venv" "$flavour"
exec "$venv/bin/confseg" run "$@"
