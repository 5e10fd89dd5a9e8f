"""What has changed since a run's stages were finished or begun: refused, or accepted and noted."""

import logging
from typing import Dict, Iterator, List

from . import manifests
from .errors import ConfsegError
from .ledger import Ledger, open_ledger, unlink
from .manifests import Origin
from .run import Run, manifest_path
from .stages import stages_of

_log = logging.getLogger(__name__)


def refuse_changed(this: Run) -> None:
    """Raise ConfsegError where a stage was finished or begun with other settings, images or versions.

    So too where its files are not those that it wrote. More cells are welcome.
    """
    for ledger in _ledgers(this):
        for verb, lost in _lost(this, ledger).items():
            if lost:
                raise ConfsegError(
                    f"{this.folder}: stage {ledger.name} was {verb} with other settings, data or versions "
                    f"({'; '.join(lost)}); choose another --output, --restart to redo it and what follows, or "
                    "--allow-different to keep what was trained and have the differences noted in the results"
                )


def keep_changed(this: Run) -> None:
    """Take what was trained, counted and grouped as made from what is there now, and note the differences."""
    report = manifest_path(this.folder, "report")
    for ledger in _ledgers(this):
        for verb, lost in _lost(this, ledger).items():
            if lost and ledger.name not in ("evaluate", "report"):  # made again, so that the results fit the cells
                _log.warning("%s: %s before, and kept in spite of %s", ledger.name, verb, "; ".join(lost))
                accept = ledger.accept_begun if verb == "begun" else ledger.accept_made
                accept(lost)
                unlink(report)  # made again: the results name what was accepted


def _ledgers(this: Run) -> Iterator[Ledger]:
    """Of the stages that could be made now, each read when those before it have been dealt with."""
    for stage in stages_of(this.config):
        if all(manifest_path(this.folder, name).exists() for name in stage.upstream):
            yield open_ledger(this, stage)


def _lost(this: Run, ledger: Ledger) -> Dict[str, List[str]]:
    """What the user would lose by redoing a stage that was finished or begun: the reasons for redoing it."""
    wanted, begun = ledger.wanted, ledger.begun()
    made = {name: part for name, part in ledger.made().items() if name in wanted}
    finished = _changes_of_mind({name: part.made_from for name, part in made.items()}, wanted)
    for part in made.values():
        finished += manifests.damaged(this.folder, part.outputs)
    continued = _changes_of_mind(begun, wanted)
    if begun:  # its checkpoint is of all its heads
        continued += [f"no cell needs {name}" for name in begun if name not in wanted]
        continued += ledger.other_versions()
    return {"finished": list(dict.fromkeys(finished)), "begun": list(dict.fromkeys(continued))}


def _changes_of_mind(earlier: Dict[str, Origin], now: Dict[str, Origin]) -> List[str]:
    """What differs, of what is still wanted, because the user decided it."""
    pairs = [(origin, now[name]) for name, origin in earlier.items() if name in now]
    changes = [change for old, new in pairs for change in manifests.differences(old, new)]
    return [str(change) for change in changes if not change.harmless]
