"""MLflow as the search sees it: hand over every finished trial and never wait for it. Imports no MLflow."""

from search.tracking.comparison import comparison_link, runs_link
from search.tracking.location import artifact_root, default_tracking_uri
from search.tracking.messages import Closing, Confirmed, Findings, TrackedData, TrackedStudy, is_server
from search.tracking.tracker import Tracker, TrackingOutcome

__all__ = [
    "Closing",
    "Confirmed",
    "Findings",
    "TrackedData",
    "TrackedStudy",
    "Tracker",
    "TrackingOutcome",
    "artifact_root",
    "comparison_link",
    "default_tracking_uri",
    "is_server",
    "runs_link",
]
