"""Models and data as users bring them along, and a search for one of them."""

import torch
import torch.nn.functional as F
from torch import nn

from search import Confirm, Data, run_search


def plain():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 5), nn.Dropout(0.2), nn.Linear(5, 3))


def normalized():
    return nn.Sequential(
        *(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(8, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.2), nn.Linear(5, 3)),
    )


class Convolutional(nn.Module):
    """What has no twin: `vmap` must take it, running statistics included."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv1d(1, 4, 3, padding=1), nn.BatchNorm1d(4)
        self.dropout, self.output = nn.Dropout1d(0.3), nn.Linear(24, 3)

    def forward(self, x):
        x = self.dropout(F.relu(self.norm(self.convolution(x.unsqueeze(1)))))
        return self.output(x.flatten(1))


class Tied(nn.Module):
    """One weight in two places."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.output = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight
        self.dropout = nn.Dropout(0.2)

    def forward(self, x):
        return self.output(self.dropout(torch.tanh(self.second(self.dropout(torch.tanh(self.first(x)))))))


class Frozen(nn.Module):
    """A part that is not to be trained, and one that is not used."""

    def __init__(self):
        super().__init__()
        self.features = nn.Linear(6, 8).requires_grad_(False)
        with torch.no_grad():
            self.features.weight.fill_(0.1)
        self.unused, self.output = nn.Linear(2, 2), nn.Linear(8, 3)

    def forward(self, x):
        return self.output(F.relu(self.features(x)))


class Branching(nn.Module):
    """Looks at the numbers to decide what to do: no engine can stack that."""

    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.small(x) if x.abs().mean() < 0.1 else self.large(x)


class Noisy(nn.Module):
    """Draws from torch's generator."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(6, 3)

    def forward(self, x):
        return self.output(F.dropout(x, 0.1, self.training))


class NoisyInEvaluation(nn.Module):
    """Draws from it whenever it is called."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(6, 3)

    def forward(self, x):
        return self.output(F.dropout(x, 0.1))


class RarelyNoisy(nn.Module):
    """Draws numbers that hardly ever make a difference."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(6, 3)

    def forward(self, x):
        return self.output(F.dropout(x, 1e-5, self.training))


class Casting(nn.Linear):
    """Computes in the type of its parameters, whatever its inputs are."""

    def __init__(self, dtype):
        super().__init__(6, 3, dtype=dtype)

    def forward(self, x):
        return super().forward(x.to(self.weight.dtype))


class Paired(nn.Module):
    """Has parameters whose gradients autograd keeps in one tensor, and one whose gradient is a single number."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(6, 3)
        self.left, self.right = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
        self.total = nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return self.output(x) + (self.left + self.right) + self.total.sum()


def examples(count=120):
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(count) % 3
    return torch.randn(3, 6, generator=generator)[y] + 0.7 * torch.randn(count, 6, generator=generator), y


def unseen(count=60):
    """Return examples that are not among the 120 of `examples()`."""
    x, y = examples(120 + count)
    return x[120:], y[120:]


SMALL = {
    "training": {"max_epochs": 3, "batch_size": 16},
    "search": {"trials": 4, "pruner": {"name": "none"}},
    "confirm": Confirm(top=1, seeds=2),
    "quiet": True,
}


def find(tmp_path, model=normalized, data=None, **options):
    data = Data(train=examples(), test=unseen()) if data is None else data
    return run_search(model, data, **{"name": "mine", "home": tmp_path / "runs", **SMALL, **options})


X, Y = examples()


class Tokens(nn.Module):
    """Words by their numbers."""

    def __init__(self):
        super().__init__()
        self.embedding, self.output = nn.Embedding(10, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.output(self.embedding(x).mean(1))


WORDS = Data(train=(torch.randint(10, (90, 4), generator=torch.Generator().manual_seed(0)), Y[:90]))
