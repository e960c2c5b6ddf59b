"""A study in Optuna: open or resume, ask, report, finish, read back. Only this package knows Optuna and storages."""

from search.study.patience import outlast_restart
from search.study.storage import close_storage, is_there, open_existing, open_storage
from search.study.stored import StoredStudy, list_studies
from search.study.study import Study

__all__ = [
    "StoredStudy",
    "Study",
    "close_storage",
    "is_there",
    "list_studies",
    "open_existing",
    "open_storage",
    "outlast_restart",
]
