"""regsearch: hyperparameter search for the regularization of neural networks."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["Confirm", "Data", "Found", "Range", "SearchWarning", "run_search"]

if TYPE_CHECKING:
    from search.api import Data, Found, run_search
    from search.confirmation import Confirm
    from search.errors import SearchWarning
    from search.spec import Range


def __getattr__(name: str) -> Any:
    # Looked up when asked for: the command line imports this package too, and has no time for all of that.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from search import api

    return getattr(api, name)
