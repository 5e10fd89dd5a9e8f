#!/usr/bin/env bash
# usage: tools/run_all_pythons.sh [ARGUMENTS OF tools/run_tests.sh]
# The tests (default: the quick ones) on CPython 3.8 to 3.13, one after another, each in a fresh environment; goes on after a
# failure, ends with a table and what failed, and exits with 1 unless all passed. CONFSEG_UNLOCKED=1, for a nightly run: with the
# newest packages that setup.py allows; where tests fail it says which of them are not the locked ones.
# Interpreters: python3.N on PATH, else pyenv's newest 3.N.
# Environments and logs go to .venv-pythons in the checkout, or CONFSEG_PYTHONS. PYTHONS="3.8 3.13" runs only these.
set -uo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
FOLDER="${CONFSEG_PYTHONS:-$HERE/../.venv-pythons}"
mkdir -p "$FOLDER" || exit 2
FOLDER="$(cd "$FOLDER" && pwd -P)"

# Path of an interpreter of this version that runs, nothing where there is none.
interpreter() { # 3.N
    local candidate
    for candidate in "python$1" $(printf '%s\n' "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python | sort -rV); do
        "$candidate" -c "import sys; sys.version_info[:2] == tuple(map(int, '$1'.split('.'))) and print(sys.executable)" \
            2>/dev/null | grep . && return
    done
}

# What pytest said last of all tests, else the last line: an environment that could not be made.
summary() { # LOG
    { grep -aE '(passed|failed|error|skipped|deselected|no tests ran).* in [0-9.]+s' "$1" || cat "$1"; } | tail -n 1 | tr -d '=' | sed 's/^ *//; s/ *$//'
}

# The tests that failed, and the packages that differ from the lock (tools/lock_differences.py), where it was not used.
broken() { # LOG
    grep -aE '^(FAILED|ERROR) ' "$1"
    sed -n '/^packages that are not those of /,$p' "$1"
}

failed=0 table="" details=""
for version in ${PYTHONS:-3.8 3.9 3.10 3.11 3.12 3.13}; do
    python="$(interpreter "$version")"
    log="$FOLDER/$version.log" started=$SECONDS
    if [ -z "$python" ]; then
        result="no interpreter" status=1
    else
        echo "== Python $version ($python); log: $log"
        rm -rf "$FOLDER/$version"
        PYTHON="$python" CONFSEG_VENV="$FOLDER/$version" "$HERE/run_tests.sh" "$@" 2>&1 | tee "$log"
        status=${PIPESTATUS[0]}
        result="$(summary "$log")"
        found="$(broken "$log")"
        [ "$status" = 0 ] || [ -z "$found" ] || details+=$'\n'"Python $version:"$'\n'"$found"$'\n'
    fi
    [ "$status" = 0 ] || failed=1
    table+="$(printf '| %-6s | %-9s | %-6s | %5d s | %s |' "$version" "$("${python:-false}" -c 'import platform; print(platform.python_version())')" \
        "$([ "$status" = 0 ] && echo passed || echo FAILED)" "$((SECONDS - started))" "$result")"$'\n'
done
printf '\n| Python | release   | tests  |    time | last line |\n|--------|-----------|--------|---------|-----------|\n%s%s' "$table" "$details"
exit $failed
