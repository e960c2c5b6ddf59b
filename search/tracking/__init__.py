"""MLflow as the search sees it: hand over every finished trial and never wait for it. Imports no MLflow."""

from search.tracking.messages import TrackedStudy
from search.tracking.tracker import Tracker, TrackingOutcome, default_tracking_uri

__all__ = ["TrackedStudy", "Tracker", "TrackingOutcome", "default_tracking_uri"]
