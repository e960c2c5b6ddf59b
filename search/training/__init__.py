"""Data, models, regularizers, optimizers and the population. Knows nothing of Optuna, MLflow or the terminal."""
