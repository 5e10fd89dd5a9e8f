# Sourced by the scripts beside it: makes a virtual environment once, and makes it again when setup.py, the lock or Python
# changes. A CPU's environment holds the packages of requirements/*.txt (tools/lock.sh); CONFSEG_UNLOCKED=1: the newest that
# setup.py allows, made again every day.
# shellcheck shell=bash

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"

say() { echo "confseg: $*" >&2; }
die() {
    echo "confseg: error: $*" >&2
    exit 2
}

# Path of the interpreter behind a command, nothing where it is absent, older than 3.8, or newer than 3.NEWEST.
supported_python() { # COMMAND NEWEST
    "$1" -c "import sys; (3, 8) <= sys.version_info < (3, $2 + 1) and print(sys.executable)" 2>/dev/null || true
}

# Sets PYTHON to the interpreter to build with: the caller's $PYTHON, else the first supported one on PATH.
find_python() {
    local candidate newest found="" candidates=(python3 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for newest in 12 13; do # for 3.13 NumPy 1 must be compiled, which takes minutes: it comes last
        for candidate in "${candidates[@]}"; do
            [ -n "$found" ] || found="$(supported_python "$candidate" $newest)"
        done
    done
    [ -n "$found" ] || die "${PYTHON:-python3} is no Python 3.8 to 3.13: install one, or set PYTHON to its path"
    PYTHON="$found"
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$PYTHON has no venv module: install it (Debian, Ubuntu: apt install python3-venv) or set PYTHON to another Python 3.8 to 3.13"
}

has_nvidia_driver() {
    [ "$(uname -m)" = x86_64 ] && "$PYTHON" -c 'import ctypes; ctypes.CDLL("libcuda.so.1")' 2>/dev/null
}

# The folder to use: CONFSEG_VENV, else the default; absolute.
venv_folder() { # DEFAULT
    local folder="${CONFSEG_VENV:-$1}"
    case "$folder" in
    /*) echo "$folder" ;;
    *) echo "$PWD/$folder" ;;
    esac
}

# The lock of an environment with these extras; nothing where there is none, or none is wanted.
lock_file() { # EXTRAS
    local file="$ROOT/requirements/${1//,/-}.txt"
    [ -n "${CONFSEG_UNLOCKED:-}" ] || [ ! -f "$file" ] || echo "$file"
}

# What the environment was made from; it is up to date when the stamp in it says the same.
stamp_for() { # VENV EXTRAS
    "$PYTHON" - "$ROOT" "$(lock_file "$2")" "$@" <<'EOF'
import datetime, hashlib, os, pathlib, sys
root, lock, *rest = sys.argv[1:]
files = [pathlib.Path(root, "setup.py"), *([pathlib.Path(lock)] if lock else [])]
digests = [part for path in files for part in (path.name, hashlib.sha256(path.read_bytes()).hexdigest())]
day = ["unlocked", str(datetime.date.today())] if os.environ.get("CONFSEG_UNLOCKED") else []
print(*digests, *day, "Python", sys.version.split()[0], root, *rest)
EOF
}

is_current() { # VENV STAMP
    [ "$(cat "$1/confseg-stamp" 2>/dev/null)" = "$2" ] && "$1/bin/python" -c '' 2>/dev/null
}

pip_install() { # VENV REQUIREMENT...
    local venv="$1" log="$1/pip.log"
    shift
    "$venv/bin/python" -m pip install --progress-bar off --no-input "$@" >>"$log" 2>&1 && return
    tail -n 5 "$log" >&2
    if grep -q "No space left on device" "$log"; then
        die "the disk is full: free 2 GB (with the GPU's libraries: 8) for $venv and pip's temporary files (TMPDIR), or set CONFSEG_VENV to another disk (pip's log: $log)"
    elif grep -qE "Unknown compiler|[Cc]ompiler .* not found" "$log"; then
        die "NumPy 1 must be compiled for this Python: install a C and C++ compiler, or set PYTHON to a Python 3.8 to 3.12 (pip's log: $log)"
    elif grep -qE "NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError" "$log"; then
        die "pip cannot reach its package index: check the network, the proxy and pip's configuration, and start again (pip's log: $log)"
    fi
    die "pip could not install what setup.py asks for, see the lines above (pip's log: $log)"
}

# opencv-python needs libGL, which a server without a screen often lacks; the headless build does not.
use_headless_opencv_without_libgl() { # VENV LOCK
    local version
    "$1/bin/python" -c 'import cv2' >>"$1/pip.log" 2>&1 && return
    version="$("$1/bin/python" -c 'from importlib.metadata import version; print(version("opencv-python"))')"
    say "opencv-python does not load here (no libGL?): installing opencv-python-headless $version instead"
    "$1/bin/python" -m pip uninstall -y opencv-python >>"$1/pip.log" 2>&1
    if [ -n "$2" ]; then
        pip_install "$1" --require-hashes --no-deps -r "$ROOT/requirements/opencv-headless.txt"
    else
        pip_install "$1" "opencv-python-headless==$version"
    fi
    "$1/bin/python" -c 'import cv2' || die "OpenCV does not load, see the line above: install the library that it names"
}

build_environment() { # VENV EXTRAS STAMP
    local lock minutes="1 to 3 minutes, longer on a slow network"
    case "$2" in *gpu*) minutes="several minutes, 2.5 GB to download" ;; esac
    [ "$(supported_python "$PYTHON" 12)" ] || minutes="5 minutes, most of them to compile NumPy 1 for this new Python"
    say "making the environment $1 ($2) with $PYTHON: once, $minutes"
    if ! { rm -rf "$1" && mkdir "$1" && echo unfinished >"$1/confseg-stamp" && "$PYTHON" -m venv "$1"; }; then
        die "cannot make $1, see above: set CONFSEG_VENV to a folder that can be written to and has 2 GB free"
    fi
    lock="$(lock_file "$2")"
    if [ -n "$lock" ]; then # all that is needed is in it; this package itself cannot have a hash
        pip_install "$1" --require-hashes --no-deps -r "$lock"
        pip_install "$1" --no-deps --no-build-isolation -e "$ROOT"
    else
        pip_install "$1" -e "${ROOT}[$2]"
    fi
    use_headless_opencv_without_libgl "$1" "$lock"
    echo "$3" >"$1/confseg-stamp" # last, so that a half-made environment is never used
}

# Makes VENV with the extras where it is absent or out of date. Needs PYTHON (find_python).
prepare_environment() { # VENV EXTRAS
    local venv="$1" stamp
    stamp="$(stamp_for "$@")"
    { mkdir -p "$(dirname "$venv")" && exec 8>"$venv.lock" 9>"$venv.in-use"; } 2>/dev/null ||
        die "cannot write beside $venv: choose a folder you may write to with CONFSEG_VENV"
    flock -n 8 || {
        say "waiting for another start that is making $venv"
        flock 8
    }
    if ! is_current "$venv" "$stamp"; then
        if [ -e "$venv" ] && [ ! -f "$venv/confseg-stamp" ] && [ -n "$(ls -A "$venv")" ]; then
            die "$venv was not made by this script and would be replaced: set CONFSEG_VENV to another folder"
        fi
        flock -n 9 || die "$venv must be made again, but a run is using it: wait for its end, or set CONFSEG_VENV to another folder"
        build_environment "$venv" "$2" "$stamp"
    fi
    flock -s 9 # kept by the program that is started next, so that nobody rebuilds under it
    exec 8>&-
}
