"""Optuna's study of a search, in a journal that survives a kill at any moment."""

import warnings
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from flashdiffusion.errors import InputError, blamed_on

NAME = "tune"
P_VALUE = 0.1  # of Wilcoxon's test; of four images all must be worse
_BEGINNING = b'{"op_code":'  # of every line of optuna's journal


def open_study(journal: Path, higher: bool, prune: bool) -> optuna.Study:
    """Begin a study, or open that of a journal; another process must not have it open.

    Args:
        higher: whether more of the objective is better.
        prune: whether trials whose images are worse than those of the best are to end.

    Raises:
        InputError: the journal is of something else.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _cleaned(journal)
    with warnings.catch_warnings(), blamed_on(f"{journal} is no journal of a search", InputError):
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # what Wilcoxon's pruner is
        lines = JournalFileBackend(str(journal), JournalFileOpenLock(str(journal)))
        return optuna.create_study(
            storage=optuna.storages.JournalStorage(lines),
            study_name=NAME,
            direction="maximize" if higher else "minimize",
            load_if_exists=True,
            pruner=optuna.pruners.WilcoxonPruner(p_threshold=P_VALUE) if prune else optuna.pruners.NopPruner(),
        )


def _cleaned(journal: Path) -> None:
    """Take away what a kill may leave: half a line, a lock; raises InputError for the file of something else."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if not journal.exists():
        return
    with journal.open("rb+") as stream:
        held = stream.read()
        if not held.startswith(_BEGINNING[: len(held)]):
            raise InputError(f"{journal} is no journal of a search; choose another --out")
        stream.truncate(held.rfind(b"\n") + 1)
