"""What this machine and installation can run, and the one line that mends what they cannot. Works without MXNet."""

import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Iterable, Iterator, List, NamedTuple, Optional, Tuple

from . import cuda, probes
from .packages import bounded, installed, requirements
from .places import ROOT_VARIABLES, cache_folder

OK, NOTE, PROBLEM = " ", "!", "X"  # also the marks in the printed list
FEATURES = ("CUDA", "CUDNN", "NCCL", "MKLDNN", "ONEDNN", "OPENCV", "OPENMP", "DIST_KVSTORE", "F16C")
SHOWN = ("numpy", "opencv-python", "opencv-python-headless")
OPTIONAL = {
    "gluoncv": "the paper's ResNet-101",
    "onnx": "confseg export --format onnx",
    "onnxruntime": "confseg export --format onnx",
    "cityscapesscripts": "official Cityscapes figures",
}
FULL_DISK, LOW_DISK = 200 << 20, 2 << 30  # bytes: a checkpoint no longer fits; a run may not
SMALL_SHARED_MEMORY = 256 << 20  # bytes; Docker gives 64 MiB
NAME_WIDTH = 26


class Finding(NamedTuple):
    """A line of the list: NOTE is for what runs slower or not everywhere, PROBLEM for what prevents running."""

    name: str
    value: str
    level: str = OK
    fix: str = ""


def examine() -> int:
    """Print everything, each note and problem with what mends it; 1 where something prevents running, else 0."""
    facts = probes.ask()
    findings = [
        *python_findings(),
        *package_findings(requirements()),
        *mxnet_findings(facts["mxnet"]),
        *opencv_findings(facts["opencv"]),
        *gpu_findings(facts["cuda"], installed(cuda.GPU_BUILD) is not None),
        *thread_findings(facts["mxnet"].get("threads")),
        *memory_findings(),
        *disk_findings(),
        *data_findings(),
    ]
    print("\n".join(lines(findings)))
    return int(any(finding.level == PROBLEM for finding in findings))


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """The printed list: mark, name, value, below it the line that mends it; at the end how many there are."""
    count = {OK: 0, NOTE: 0, PROBLEM: 0}
    for name, value, level, fix in findings:
        count[level] += 1
        yield f"{level} {name:<{NAME_WIDTH}} {value}"
        if fix:
            yield f"  {'':<{NAME_WIDTH}} -> {fix}"
    if count[PROBLEM]:
        yield f"\n{PROBLEM} prevents running: {count[PROBLEM]}; {NOTE} does not: {count[NOTE]}"
    else:
        yield "\nnothing prevents running" + (f"; {NOTE} is worth a look: {count[NOTE]}" if count[NOTE] else "")


def python_findings() -> Iterator[Finding]:
    value = f"{platform.python_version()} on {platform.system()} {platform.machine()} ({sys.executable})"
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        yield Finding("Python", value, NOTE, "not tried on this platform: use Linux x86-64, or a container of it")
    elif not (3, 8) <= sys.version_info[:2] <= (3, 13):
        yield Finding("Python", value, PROBLEM, "set PYTHON to a Python 3.8 to 3.13 and start tools/run_experiment.sh")
    else:
        yield Finding("Python", value)


def package_findings(requires: Optional[List[str]]) -> Iterator[Finding]:
    """Packages against setup.py's bounds; the MXNet and NVIDIA wheels are looked at by loading them."""
    if requires is None:
        yield Finding("packages", "not checked", NOTE, "run pip install -e '.[cpu]' in the project's folder")
        return
    try:
        from packaging.requirements import Requirement
    except ImportError:
        yield Finding("packages", "not checked", NOTE, "pip install packaging")
        return
    wanted = {each.name.lower(): each for each in map(Requirement, requires) if _is_looked_at(each)}
    findings = [_package(name, each) for name, each in wanted.items()]
    shown = [each for each in findings if each.level != OK or each.name in SHOWN or each.name in OPTIONAL]
    yield from shown
    yield Finding("other packages", f"{len(findings) - len(shown)} within setup.py's bounds")


def _is_looked_at(requirement) -> bool:
    return requirement.name.lower() in OPTIONAL or requirement.marker is None


def _package(name: str, requirement) -> Finding:
    install = f"pip install {bounded(requirement.name)}"
    optional = name in OPTIONAL
    use = f" (for {OPTIONAL[name]})" if optional else ""
    version = installed(name)
    if name == "opencv-python" and installed("opencv-python-headless"):
        name, version = "opencv-python-headless", installed("opencv-python-headless")  # nobody opens windows here
    if version is None and optional:
        return Finding(name, f"not installed{use}: {install}")
    if version is None:
        return Finding(name, "not installed", PROBLEM, install)
    if version in requirement.specifier:
        return Finding(name, version)
    return Finding(name, f"{version}, not {requirement.specifier}{use}", NOTE if optional else PROBLEM, install)


def mxnet_findings(facts: probes.Facts) -> Iterator[Finding]:
    builds = [name for name in ("mxnet", cuda.GPU_BUILD) if installed(name)]
    if len(builds) > 1:
        fix = f"pip uninstall -y {' '.join(builds)}, then {cuda.CPU_INSTALL} or pip install -e '.[gpu]'"
        yield Finding("MXNet builds", f"{' and '.join(builds)} overwrite each other", PROBLEM, fix)
    if "error" in facts:
        install = f"pip install --force-reinstall {builds[0] if builds else 'mxnet'}==1.9.1"
        fix = f"{facts['error']}: {install}" if facts.get("unexpected") else facts["error"]
        yield Finding("MXNet", "does not import", PROBLEM, fix)
        return
    version = facts["version"]
    expected = version == "1.9.1"
    value = f"{version} ({' and '.join(builds) or 'not installed by pip'})"
    yield Finding(
        "MXNet", value, OK if expected else NOTE, "" if expected else f"only 1.9.1 is tried: {cuda.CPU_INSTALL}"
    )
    there = [name for name in FEATURES if name in facts["features"]]
    absent = [name for name in ("CUDA", "CUDNN") if name not in there]
    yield Finding("  built with", ", ".join(there) + (f"; without {', '.join(absent)}" if absent else ""))
    if facts["runtime_problem"]:
        fix = f"update the driver to {cuda.OLDEST_DRIVER_NAME} or newer; until then --cpu"
        yield Finding("  on this driver", facts["runtime_problem"], NOTE, fix)


def opencv_findings(facts: probes.Facts) -> Iterator[Finding]:
    """A finding where OpenCV does not load; where it does, the list of packages has said so."""
    if "error" not in facts:
        return
    fix = facts["error"]
    if "libGL" in facts["error"] or "libgthread" in facts["error"]:
        headless = bounded("opencv-python").replace("python", "python-headless")
        fix = f"{facts['error']}: pip uninstall -y opencv-python; pip install {headless} {bounded('numpy')}"
    elif facts.get("unexpected"):
        fix += f": pip install --force-reinstall {bounded('opencv-python')} {bounded('numpy')}"
    yield Finding("OpenCV", "does not import", PROBLEM, fix)


def gpu_findings(facts: probes.Facts, gpu_build: bool) -> Iterator[Finding]:
    """Libraries, driver and GPUs; `gpu_build` is whether mxnet-cu112 is installed."""
    if "error" in facts:
        yield Finding("NVIDIA driver", facts["error"], NOTE, "look at nvidia-smi; --cpu does without the GPU")
        return
    for library in facts["libraries"]:
        missing = library.get("error")
        fix = cuda.wheel_install(library["name"]) if missing else ""
        yield Finding(library["name"], missing or library["from"], PROBLEM if missing else OK, fix)
    driver = _driver_of(facts["driver"])
    if not gpu_build:
        yield _gpu_without_gpu_build(driver)
        return
    yield _driver(driver)
    for index, (name, (major, minor)) in enumerate(driver.gpus):
        value = f"{name}, compute capability {major}.{minor}"
        if cuda.can_run((major, minor)):
            yield Finding(f"gpu:{index}", value)
        else:
            value += f": {cuda.GPU_BUILD} was built for 5.0 to 8.9"
            yield Finding(f"gpu:{index}", value, NOTE, "use another GPU (--gpus), or --cpu")


def _driver_of(fact) -> cuda.Driver:
    """The driver from JSON, which has no tuples."""
    problem, version, gpus = fact
    return cuda.Driver(problem, tuple(version), tuple((name, tuple(capability)) for name, capability in gpus))


def _gpu_without_gpu_build(driver: cuda.Driver) -> Finding:
    names = ", ".join(name for name, capability in driver.gpus if cuda.can_run(capability))
    if names:
        return Finding("GPU", f"{names}: not used by this CPU build of MXNet", NOTE, f"GPU build: {cuda.GPU_INSTALL}")
    return Finding("GPU", driver.problem or "none that MXNet 1.9.1 can use")


def _driver(driver: cuda.Driver) -> Finding:
    name, version = "NVIDIA driver", "for CUDA up to {}.{}".format(*driver.cuda)
    if driver.problem:
        return Finding(name, driver.problem, NOTE, _driver_fix(driver))
    if driver.cuda < cuda.OLDEST_DRIVER:
        return Finding(name, version, NOTE, f"update the driver to {cuda.OLDEST_DRIVER_NAME} or newer, or use --cpu")
    compiler = cuda.compiler_version()
    if driver.cuda < compiler:
        fix = "update the driver, or export MXNET_USE_FUSION=0"
        too_old = "{}, but operators are fused by the compiler of CUDA {}.{}".format(version, *compiler)
        return Finding(name, too_old, NOTE, fix)
    return Finding(name, version)


def _driver_fix(driver: cuda.Driver) -> str:
    if driver.cuda == (0, 0):
        return f"install the NVIDIA driver {cuda.OLDEST_DRIVER_NAME} or newer"
    if "CUDA_VISIBLE_DEVICES" in driver.problem:
        return "unset CUDA_VISIBLE_DEVICES"
    return "runs use the CPU until nvidia-smi lists a GPU: restart after a driver's update, docker run --gpus all"


def thread_findings(given: Optional[str]) -> Iterator[Finding]:
    """CPUs against threads; `given` is OMP_NUM_THREADS as MXNet got it, None where that is not known."""
    cpus, limit = _cpus()
    wanted = os.environ.get("OMP_NUM_THREADS")
    value = f"{cpus}{limit}; OMP_NUM_THREADS "
    value += wanted or ("is not set" + (f": MXNet takes {given}" if given else ""))
    threads = wanted or given or ""
    if threads.isdecimal() and int(threads) > cpus:
        yield Finding("CPUs", value, NOTE, f"export OMP_NUM_THREADS={cpus}: more threads than CPUs are slower")
    else:
        yield Finding("CPUs", value)


def _cpus() -> Tuple[int, str]:
    """CPUs that this process may use, and " by the container's limit" where that is what bounds them."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        limit = max(int(quota) // int(period), 1)
    except (OSError, ValueError):  # no such file, or "max": no limit
        return cpus, ""
    return (limit, " by the container's limit") if limit < cpus else (cpus, "")


def memory_findings(folder: str = "/dev/shm") -> Iterator[Finding]:
    """Shared memory: our threads do without; NCCL and loaders with worker processes do not."""
    fix = "in a container: --shm-size=1g; elsewhere mount -o remount,size=1g /dev/shm"
    if not Path(folder).is_dir():
        yield Finding(folder, "is not there: worker processes fail", NOTE, fix)
        return
    usage = shutil.disk_usage(folder)
    small = usage.free < SMALL_SHARED_MEMORY
    value = f"{_size(usage.free)} free of {_size(usage.total)}" + (": little for worker processes" if small else "")
    yield Finding(folder, value, NOTE if small else OK, fix if small else "")


def disk_findings() -> Iterator[Finding]:
    places = [("working folder", Path.cwd, "another folder: --output DIR")]
    places += [("temporary folder", lambda: Path(tempfile.gettempdir()), "another folder: export TMPDIR=DIR")]
    places += [("built-in data's folder", cache_folder, "another folder: export XDG_CACHE_HOME=DIR")]
    for name, folder, elsewhere in places:
        try:
            yield _disk(name, folder(), elsewhere)
        except OSError as error:  # a deleted working folder, no temporary folder that can be written to
            yield Finding(name, error.strerror or str(error), PROBLEM, f"free space, or {elsewhere}")


def _disk(name: str, folder: Path, elsewhere: str) -> Finding:
    there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    value = f"{folder}: {_size(free)} free"
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding(name, f"{folder}: cannot be written to", PROBLEM, elsewhere)
    if free < LOW_DISK:
        return Finding(name, value, PROBLEM if free < FULL_DISK else NOTE, f"free space, or {elsewhere}")
    return Finding(name, value)


def data_findings() -> Iterator[Finding]:
    for variable in ROOT_VARIABLES.values():
        root = os.environ.get(variable)
        if not root:
            yield Finding(variable, "not set: built-in images, or --data-root")
        elif Path(root).expanduser().is_dir():
            yield Finding(variable, root)
        else:
            fix = f"set it to the data set's folder, or unset {variable}"
            yield Finding(variable, f"{root} is no folder", PROBLEM, fix)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
