"""regsearch: hyperparameter search for the regularization of neural networks."""

__version__ = "0.1.0"
