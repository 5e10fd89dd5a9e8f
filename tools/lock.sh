#!/usr/bin/env bash
# usage: tools/lock.sh [--upgrade]
# Writes requirements/*.txt: for the CPU's environments, the version and hashes of every package that setup.py's bounds lead
# to, for Python 3.8 to 3.13. Versions that are in the files stay where setup.py allows them; --upgrade takes the newest.
# Needs uv (taken from PATH, else installed into .venv-lock) and the package index that uv is configured for.
set -euo pipefail

# shellcheck source=tools/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$ROOT"
if ! command -v uv >/dev/null; then
    find_python
    [ -x .venv-lock/bin/uv ] || { "$PYTHON" -m venv .venv-lock && .venv-lock/bin/python -m pip install --quiet uv; }
    PATH="$ROOT/.venv-lock/bin:$PATH"
fi

compile() { # FILE ARGUMENT...
    local file="$1"
    shift
    uv pip compile --quiet --universal --python-version 3.8 --generate-hashes --no-annotate --no-emit-index-url \
        --no-emit-find-links --custom-compile-command tools/lock.sh --output-file "$file" "$@"
}

mkdir -p requirements
# uv does not look at the upper bound of Requires-Python: from 3.10 on, typing is not for Python 3
compile requirements/cpu-test.txt setup.py --extra cpu --extra test --constraints <(echo "typing<3.10") "$@"
# the same versions, so that tests are of what is used
compile requirements/cpu.txt setup.py --extra cpu --constraints <(sed 's/ \\$//; /^ /d' requirements/cpu-test.txt) "$@"
opencv="$(sed -n 's/^opencv-python==\([^ ]*\).*/\1/p' requirements/cpu.txt)"
compile requirements/opencv-headless.txt --no-deps <(echo "opencv-python-headless==$opencv")
