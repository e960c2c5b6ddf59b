"""MLflow as the search sees it: hand over every finished trial and never wait for it. Imports no MLflow."""

from search.tracking.comparison import comparison_link, runs_link
from search.tracking.messages import Closing, Confirmed, Findings, TrackedData, TrackedStudy
from search.tracking.tracker import Tracker, TrackingOutcome, default_tracking_uri

__all__ = [
    "Closing",
    "Confirmed",
    "Findings",
    "TrackedData",
    "TrackedStudy",
    "Tracker",
    "TrackingOutcome",
    "comparison_link",
    "default_tracking_uri",
    "runs_link",
]
