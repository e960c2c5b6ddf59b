"""optuna-dashboard and the MLflow UI: what they are given to show of a study, and how they are started together."""
