#!/usr/bin/env bash
# usage: tools/run_tests.sh [quick | all | PYTEST ARGUMENTS]
# quick (default): ruff, then every test that is not marked slow. all: the slow ones too. Anything else goes to pytest.
# Its own environment: .venv-tests in the checkout, or CONFSEG_VENV; made with PYTHON, else python3, from the locked packages.
# CONFSEG_UNLOCKED=1: the newest packages that setup.py allows, in .venv-tests-unlocked; a failure then lists which differ.
set -euo pipefail

# shellcheck source=tools/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
find_python
venv="$(venv_folder "$ROOT/.venv-tests${CONFSEG_UNLOCKED:+-unlocked}")"
prepare_environment "$venv" cpu,test
cd "$ROOT"

status=0
case "${1:-quick}" in
quick | all)
    "$venv/bin/ruff" check . || status=1
    "$venv/bin/ruff" format --check . || status=1
    [ $status = 0 ] || say "ruff found the problems above; the tests run all the same"
    ;;
esac
case "${1:-quick}" in
quick) "$venv/bin/python" -m pytest -m "not slow" || status=$? ;;
all) "$venv/bin/python" -m pytest || status=$? ;;
*) "$venv/bin/python" -m pytest "$@" || status=$? ;;
esac
if [ $status != 0 ] && [ -n "${CONFSEG_UNLOCKED:-}" ]; then
    "$venv/bin/python" tools/lock_differences.py requirements/cpu-test.txt >&2
fi
exit $status
