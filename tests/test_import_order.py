"""The house stands: each file imports only from those above it, and only backend.py knows MXNet and GluonCV by name."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gluon_confseg"

ORDER = (
    "errors options packages places cuda launching npz_sizes plain_data files yaml_files table tensor_base "
    "torch_files tensor_files progress interrupts phases scores_on_host backend workers profiling probes doctor "
    "labels paper confusion groups moving_confusion config_base config_data config_schedules config_networks "
    "config_losses config_cells config_joint config_tree config data preflight nn complexity checkpoint passes "
    "feature_gradients mixed_precision batchnorm heads epoch_metrics course training scores_on_device inference "
    "evaluation run manifests origins loss_weights building results seeds paper_tables figures page reporting fitting "
    "joint sharing stages ledger changes chain info pipeline study using video prediction evaluating official export "
    "labelmaps counting confusion_files comparing grouping checking cli_options cli_checks cli_labelmaps cli_results "
    "cli_training cli_using cli"
).split()
WITHOUT_MXNET = (
    "errors options packages places cuda launching npz_sizes plain_data files yaml_files table tensor_base "
    "torch_files tensor_files progress interrupts phases scores_on_host probes doctor labels paper confusion groups "
    "moving_confusion config_base config_data config_schedules config_networks config_losses config_cells "
    "config_joint config_tree config data preflight manifests results seeds paper_tables figures page official "
    "labelmaps counting confusion_files comparing grouping checking"
).split()
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path):
    """`labels` for labels.py, `data` for data/voc.py, "" for the package's __init__.py."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first[: -len(".py")] if first.endswith(".py") else first


def imported(path):
    """Absolute dotted names that a file imports, wherever in the file the import stands."""
    package = ["gluon_confseg", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = base + (node.module.split(".") if node.module else [])
            yield from (".".join([*module, alias.name]) for alias in node.names)


def rooms_imported(path):
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("gluon_confseg.")}
    return {name for name in rooms if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()}


def test_every_room_has_its_place():
    assert {room(path) for path in FILES} - {""} <= set(ORDER)
    assert rooms_imported(PACKAGE / "backend.py") == {"errors", "packages", "cuda"}  # the parser above sees imports


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_come_from_above(path):
    above = ORDER[: ORDER.index(room(path)) + 1] if room(path) else []
    assert rooms_imported(path) <= set(above)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_backend_names_mxnet_and_gluoncv(path):
    found = {name.split(".")[0] for name in imported(path)} & {"mxnet", "gluoncv"}
    assert found == ({"mxnet", "gluoncv"} if room(path) == "backend" else set())


def run_blocked(code, *blocked):
    """Run `code` where importing any of `blocked` fails; its error output is empty when all went well."""
    prelude = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in blocked)
    result = subprocess.run(
        [sys.executable, "-c", prelude + code],
        cwd=str(ROOT),
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    return result.stderr


@pytest.mark.parametrize("name", WITHOUT_MXNET)
def test_imports_without_mxnet(name):
    assert run_blocked(f"import gluon_confseg.{name}", "mxnet", "gluoncv") == ""


def test_package_itself_is_light():
    heavy = ("mxnet", "gluoncv", "numpy", "scipy", "matplotlib", "cv2", "pydantic", "click", "yaml")
    assert run_blocked("import gluon_confseg; gluon_confseg.__version__", *heavy) == ""
    assert "ModuleNotFoundError" in run_blocked("import gluon_confseg.backend", "numpy")
