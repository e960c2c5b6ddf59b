"""Opening a study: made, resumed or refused.

What a study is begun with and recognized by is written down here; its trials are the business of `study.py`.
"""

import shlex
import warnings

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy

from search import __version__
from search.errors import DamagedError, SpecMismatchError, StorageError, UsageError, did_you_mean
from search.pareto import MAXIMIZED
from search.printable import enumerated
from search.spec import StudySpec, check_new_study_name, check_study_name, is_study_name, spec_differences
from search.study.commits import exclusive
from search.study.kept import Kept, keep_in
from search.study.storage import describe_storage
from search.study.trials import CONFIG

SPEC = "spec"
"""Name of the study's attribute without which it is none of ours."""
_VERSION = "regsearch"
_MOST_DIFFERENCES = 50


def our_studies(storage: BaseStorage) -> dict[str, FrozenStudy]:
    """Return the studies in the storage that regsearch made, by name, with their attributes: all in a few statements.

    Names that it gives to no study are left out: they would become folders, and stand on the terminal.
    """
    ours = {study.study_name: study for study in storage.get_all_studies() if SPEC in study.user_attrs}
    return {name: ours[name] for name in sorted(filter(is_study_name, ours))}


def load(name: str, storage: BaseStorage) -> tuple[optuna.Study, StudySpec]:
    """Return a study and its spec. Raises UsageError when there is none of that name, StorageError when not ours."""
    check_study_name(name)
    ours = our_studies(storage)
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        known = f" (known: {enumerated([*ours])})" if ours else "; there are none yet"
        raise UsageError(f'there is no study "{name}"{did_you_mean(name, ours)}{known}') from None
    if name not in ours:
        Kept(study).get(SPEC)
        raise _not_ours(name, storage)
    return study, stored_spec(study)


def stored_spec(study: optuna.Study | FrozenStudy) -> StudySpec:
    """Return the spec of a study of ours, as it is in the storage now, or as it was read."""
    if (stored := Kept(study).get(SPEC)) is None:
        name = shlex.quote(study.study_name)
        raise DamagedError(
            f'study "{study.study_name}": what it searches for could not be read, and was unset by `regsearch repair`; '
            f"`regsearch start --study FILE --name {name}`, with the file that it was begun with, goes on with it"
        )
    return StudySpec.from_json(stored)


def create_or_resume(name: str, spec: StudySpec, storage: BaseStorage) -> optuna.Study:
    """Return the study of that name, made if need be, however many do so at the same moment.

    Raises SpecMismatchError, StorageError when it is not ours, UsageError for a name that no new study may have.
    """
    if name in (study.study_name for study in storage.get_all_studies()):
        study = optuna.load_study(study_name=name, storage=storage)
    else:
        check_new_study_name(name)
        study = optuna.create_study(
            study_name=name, storage=storage, directions=directions_of(spec), load_if_exists=True
        )
    with exclusive(storage, storage.get_study_id_from_name(name)):
        attributes = study.user_attrs
        _check_spec(study, spec, storage)
        # What is missing a process killed just after the creation has left to do.
        for key, value in ((SPEC, spec.to_json()), (_VERSION, __version__)):
            if attributes.get(key) != value:
                keep_in(storage, study._study_id, key, value)
        names: list[str] = list(spec.search.objectives)
        if study.metric_names != names:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                study.set_metric_names(names)
    return study


def directions_of(spec: StudySpec) -> list[StudyDirection]:
    """Return whether Optuna is to minimize or to maximize, by objective."""
    minimize, maximize = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE
    return [maximize if name in MAXIMIZED else minimize for name in spec.search.objectives]


def _check_spec(study: optuna.Study, spec: StudySpec, storage: BaseStorage) -> None:
    attributes = study.user_attrs
    if SPEC not in attributes:
        Kept(study).get(SPEC)
        # An empty study may be ours: killed between the creation and the first attribute.
        if attributes or study.trials or study.directions != directions_of(spec):
            raise _not_ours(study.study_name, storage)
        return
    if attributes[SPEC] is None:
        # Its head was lost, see `repair.py`: the file that is given is taken for the one that it was begun with.
        configs, names = (trial.user_attrs.get(CONFIG) for trial in study.trials), spec.parameters()
        if study.directions != directions_of(spec) or any(
            config.keys() != names.keys() for config in configs if config
        ):
            raise SpecMismatchError(
                f'study "{study.study_name}" was begun with another file: its trials have other parameters'
            )
        return
    differences = spec_differences(stored_spec(study), spec)
    if differences:
        raise SpecMismatchError(
            f'study "{study.study_name}" exists with another spec:\n'
            + "\n".join(f"  {line}" for line in differences[:_MOST_DIFFERENCES])
            + (f"\n  and {more:,} more" if (more := len(differences) - _MOST_DIFFERENCES) > 0 else "")
            + "\nto search with the new one, give the study a new name: --name NEW"
        )
    if study.directions != directions_of(spec):
        told = ", ".join(direction.name.lower() for direction in study.directions)
        raise StorageError(
            f'study "{study.study_name}" has other directions than it was made with ({told}): another program has '
            "changed them, and the sampler would take the worst trials for the best; choose another name: --name NEW"
        )


def _not_ours(name: str, storage: BaseStorage) -> StorageError:
    where = describe_storage(storage)
    return StorageError(f'{where}: study "{name}" was not made by regsearch; choose another name: --name NEW')
