"""Compiled kernels: the same numbers as torch's operations give, and a clear word where they cannot be had."""

import os
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from conftest import kernels_in_use
from torch import Tensor

from search.errors import KernelError
from search.spec import TrainingSpec
from search.training.kernels import building
from search.training.kernels.building import kernel_library
from search.training.kernels.compiled import products_for
from search.training.losses import cross_entropy_gradients
from search.training.optimizers import Strengths, make_optimizer
from search.training.regularizers import Dropout
from search.training.stacking import Places, StackedLinear

FLOATS = [torch.float32, torch.float64, torch.bfloat16]


def by_both(compute) -> list[Tensor]:
    results = []
    for name in ("compiled", "torch"):
        with kernels_in_use(name):
            results.append(compute())
    return results


def stacked_dropout(rates) -> Dropout:
    """Return a layer of several slots, each with its rate and key."""
    layer, solos = Dropout("dropout_0"), [Dropout("dropout_0") for _ in rates]
    for key, (solo, rate) in enumerate(zip(solos, rates, strict=True)):
        solo.configure(rate, 1000 + key)
    for name in ("key", "dropped_below", "scale"):
        setattr(layer, name, torch.stack([getattr(solo, name) for solo in solos]))
    return layer


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(3, 5, 7), (3, 64, 33), (3, 1, 1)])
def test_dropout_drops_the_same_and_gives_the_same(dtype, shape):
    torch.manual_seed(0)
    x, flow = (torch.randn(shape).to(dtype) for _ in range(2))

    def twice() -> Tensor:
        layer, leaf = stacked_dropout([0.0, 0.3, 0.99]), x.clone().requires_grad_()
        outputs = [layer(leaf) for _ in range(2)]
        # Backward after both: the key has moved on by then.
        gradients = [torch.autograd.grad(output, leaf, flow)[0] for output in outputs]
        return torch.stack([*outputs, *gradients]).detach()

    ours, expected = by_both(twice)
    assert torch.equal(ours, expected)
    assert not torch.equal(ours[0], ours[1]) or x.numel() < 10


def test_dropout_of_one_slot_and_of_inputs_in_another_order_of_memory():
    x = torch.randn(6, 4, 3, 3).contiguous(memory_format=torch.channels_last)

    def once() -> Tensor:
        layer = Dropout("dropout_0")
        layer.configure(0.4, 7)
        return layer(x)

    ours, expected = by_both(once)
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(4, 6, 10), (6, 10), (2, 1, 3)])
def test_gradient_of_the_loss_is_the_one_autograd_finds(dtype, shape):
    torch.manual_seed(0)
    logits = (3 * torch.randn(shape)).to(dtype)
    targets = torch.randint(shape[-1], shape[:-1])
    leaf = logits.double().requires_grad_()
    losses = F.cross_entropy(leaf.flatten(0, -2), targets.flatten(), reduction="sum") / shape[-2]
    expected = torch.autograd.grad(losses, leaf)[0].to(dtype)
    for ours in by_both(lambda: cross_entropy_gradients(logits, targets)):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-7)


def test_gradient_of_the_loss_survives_large_logits_and_tells_of_broken_ones():
    logits, targets = torch.tensor([[1e4, -1e4], [float("nan"), 0.0]]), torch.tensor([1, 0])
    for ours in by_both(lambda: cross_entropy_gradients(logits, targets)):
        assert ours[0].tolist() == [0.5, -0.5]
        assert ours[1].isnan().all()


@pytest.mark.parametrize(("numbers", "gradients_in"), [*product(FLOATS, FLOATS)], ids=str)
@pytest.mark.parametrize("l1_mode", ["proximal", "penalty"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_steps_are_the_same(optimizer, l1_mode, numbers, gradients_in):
    torch.manual_seed(0)
    slots, pieces = 3, [(4, 5), (7, 3), (4,), (3,)]
    size = sum(torch.Size(piece).numel() for piece in pieces)
    start = torch.randn(slots, size, dtype=numbers)
    steps = [[torch.randn(2, *piece).to(gradients_in) for piece in pieces] for _ in range(10)]
    strengths = Strengths(*(torch.rand(2, 1, dtype=torch.float64) * most for most in (1e-2, 0.5, 1e-2)))

    def train() -> Tensor:
        parameters = start.clone()
        ours = make_optimizer(TrainingSpec(optimizer=optimizer, l1_mode=l1_mode), parameters, size - 7)
        rows = slice(1, 3)
        for gradients, now in zip(steps, ours.begin(rows, strengths, len(steps)), strict=True):
            ours.step(rows, gradients, now)
        return parameters

    ours, expected = by_both(train)
    assert torch.equal(ours[0], start[0])
    torch.testing.assert_close(ours, expected, rtol=1e-12 if numbers == torch.float64 else 1e-4, atol=1e-6)


def test_gradients_that_are_transposed_in_memory_are_read_in_order():
    start, gradient = torch.randn(2, 6), torch.randn(2, 3, 2).transpose(1, 2)
    strengths = Strengths(*(torch.full((2, 1), strength, dtype=torch.float64) for strength in (0.1, 0.0, 0.0)))

    def step() -> Tensor:
        parameters = start.clone()
        optimizer = make_optimizer(TrainingSpec(optimizer="sgd"), parameters, 6)
        optimizer.step(slice(0, 2), [gradient], optimizer.begin(slice(0, 2), strengths, 1)[0])
        return parameters

    torch.testing.assert_close(*by_both(step))


def multiply(*arguments, **keywords) -> Tensor:
    with kernels_in_use("compiled"):
        kernels = products_for(arguments[0])
        if kernels is None:
            pytest.skip("this processor has no vectors so wide that torch's products are slower")
        return kernels.multiply(*arguments, **keywords)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 32, 64, 128), (2, 7, 5, 3), (1, 1, 1, 1), (2, 9, 33, 40), (2, 16, 10, 0)])
@pytest.mark.parametrize("a_transposed", [False, True])
@pytest.mark.parametrize("b_transposed", [False, True])
def test_products_of_each_slots_matrices(dtype, shape, a_transposed, b_transposed):
    slots, m, n, k = shape
    torch.manual_seed(0)
    a, b, bias = (torch.randn(*size, dtype=dtype) for size in ((slots, m, k), (slots, k, n), (slots, n)))
    stored_a = a.transpose(1, 2).contiguous() if a_transposed else a
    stored_b = b.transpose(1, 2).contiguous() if b_transposed else b
    ours = multiply(stored_a, stored_b, bias, a_transposed, b_transposed)
    without = multiply(stored_a, stored_b, None, a_transposed, b_transposed)
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(ours, torch.baddbmm(bias[:, None], a, b), **tolerance)
    torch.testing.assert_close(without, torch.bmm(a, b), **tolerance)


def test_products_of_matrices_that_share_or_leave_gaps_in_memory():
    """As in evaluation, where all slots have the same inputs, and with weights that are parts of longer rows."""
    rows, x = torch.randn(3, 100), torch.randn(9, 5)
    weights, biases = rows[:, 20:40].unflatten(1, (4, 5)), rows[:, 50:54]
    inputs = x.expand(3, 9, 5)
    ours = multiply(inputs, weights, biases, b_transposed=True)
    in_other_order = multiply(x.t().contiguous().t().expand(3, 9, 5), weights, biases, b_transposed=True)
    expected = torch.baddbmm(biases[:, None], inputs, weights.transpose(1, 2))
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(in_other_order, expected)


def test_products_of_several_types_are_refused_as_torch_refuses_them():
    """As of inputs that a model casts to single precision, where training computes in bfloat16."""
    layer = StackedLinear(5, 4)
    Places(layer).bind({"weight": torch.randn(3, 4, 5).bfloat16(), "bias": torch.randn(3, 4).bfloat16()})
    for name in ("compiled", "torch"):
        with kernels_in_use(name), pytest.raises(RuntimeError, match="dtype"):
            layer(torch.randn(3, 9, 5))


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setattr(building, "find_program", lambda _name: None)


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_that_is_said(tmp_path):
    with pytest.raises(KernelError, match="there is no C compiler"):
        kernel_library(tmp_path)


@pytest.fixture
def compiler():
    try:
        return building._compiler()
    except KernelError as reason:
        pytest.skip(str(reason))


@pytest.mark.usefixtures("compiler")
def test_compiled_once_and_kept(tmp_path):
    library = kernel_library(tmp_path / "new")
    before = library.stat()
    assert kernel_library(tmp_path / "new") == library
    assert library.stat().st_mtime_ns == before.st_mtime_ns
    assert os.listdir(library.parent) == [library.name]


@pytest.mark.usefixtures("compiler")
def test_a_damaged_library_is_made_anew(tmp_path):
    torn = tmp_path / kernel_library(tmp_path / "whole").name
    torn.write_bytes(b"torn")
    tmp_path.chmod(0o700)
    assert kernel_library(tmp_path) == torn
    assert torn.read_bytes() != b"torn"


@pytest.mark.usefixtures("compiler")
def test_a_folder_that_others_write_to_is_not_trusted(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(KernelError, match=f"others can write to {tmp_path}"):
        kernel_library(tmp_path)


def test_a_compiler_that_fails_is_quoted(tmp_path, monkeypatch):
    fake = tmp_path / "cc"
    fake.write_text("#!/bin/sh\necho 'kernels.c:1: no such processor' >&2\nexit 1\n")
    fake.chmod(0o700)
    monkeypatch.setenv("CC", str(fake))
    with pytest.raises(KernelError, match=r"did not compile the kernels: kernels\.c:1: no such processor"):
        kernel_library(tmp_path / "cache")


@pytest.mark.usefixtures("compiler")
def test_a_compiler_that_does_not_know_the_processor_gives_plain_code(tmp_path, monkeypatch):
    fake = tmp_path / "cc"
    fake.write_text(f'#!/bin/sh\ncase "$*" in *native*) exit 1;; esac\nexec {building._compiler()} "$@"\n')
    fake.chmod(0o700)
    monkeypatch.setenv("CC", str(fake))
    assert kernel_library(tmp_path / "cache").exists()


@pytest.fixture
def copied(compiler, monkeypatch):
    """Copies the user's library in the place of compiling one, which takes seconds."""
    made, copies = kernel_library().read_bytes(), []

    def copy(_compiler, library):
        copies.append(library)
        library.unlink(missing_ok=True)
        library.write_bytes(made)
        library.chmod(0o700)

    monkeypatch.setattr(building, "_compile", copy)
    return copies


@pytest.mark.usefixtures("copied")
def test_a_folder_whose_parent_others_write_to_is_not_trusted(tmp_path):
    """Nor by a link that leads out of it: they could put another folder, or another link, in its place."""
    above = tmp_path / "above"
    (above / "mine").mkdir(parents=True, mode=0o700)
    (tmp_path / "link").symlink_to(above / "mine")
    above.chmod(0o777)
    (above / "kernels").symlink_to(above / "mine")
    for folder in (
        above / "mine",
        above / "kernels",
        above / "new",
        above / "mine" / "deep" / "new",
        tmp_path / "link",
    ):
        with pytest.raises(KernelError, match=f"others can write to {above}, .*: chmod go-w {above}"):
            kernel_library(folder)
    above.chmod(0o1777)  # as /tmp: nobody may rename what is another's
    assert kernel_library(above / "kernels").parent == above / "mine"


@pytest.mark.parametrize("of", ["folder", "parent", "library"])
def test_what_belongs_to_somebody_else_is_not_run(tmp_path, monkeypatch, copied, of):
    folder = tmp_path / "parent" / "folder"
    library = kernel_library(folder)
    foreign = {"folder": folder, "parent": folder.parent, "library": library}[of]
    real, me = os.stat, os.getuid()

    def changed(path, **options):
        state = real(path, **options)
        fields = list(state)
        fields[4] = me + 1 if os.fspath(path) == os.fspath(foreign) else state.st_uid
        return os.stat_result(fields)

    monkeypatch.setattr(os, "stat", changed)
    if of == "library":
        assert (kernel_library(folder), len(copied)) == (library, 2)  # it is made anew
        return
    with pytest.raises(KernelError, match=f"{foreign} belongs to somebody else"):
        kernel_library(folder)


def test_a_library_that_others_write_to_or_that_is_a_link_is_made_anew(tmp_path, copied):
    tmp_path.chmod(0o700)
    library = kernel_library(tmp_path / "kernels")
    content = library.read_bytes()
    (tmp_path / "evil.so").write_bytes(content)
    library.unlink()
    library.symlink_to(tmp_path / "evil.so")
    assert not kernel_library(tmp_path / "kernels").is_symlink()
    library.chmod(0o777)
    assert (kernel_library(tmp_path / "kernels"), len(copied)) == (library, 3)
    assert library.stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("compiler")
def test_headers_and_programs_of_the_working_directory_are_not_compiled_in(tmp_path, monkeypatch):
    (tmp_path / "math.h").write_text("#error a stranger's\n")
    (tmp_path / "cc").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "cc").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CPATH", ":")
    monkeypatch.setenv("PATH", f".:{os.environ['PATH']}")
    monkeypatch.delenv("CC", raising=False)
    assert kernel_library(tmp_path / "kernels").exists()
