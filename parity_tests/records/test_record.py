"""Recorders of the three frameworks on one network that nothing of the program knows."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import load_backend
from common.parity.compare_records import compare_records
from common.parity.pairing import paired_outputs
from common.parity.records import Record, read_record
from common.parity.report import Report
from common.protocol import Array

IMAGES = np.random.default_rng(7).normal(size=(2, 3, 8, 8))

NETS = {
    "torch": ("torch_net", "Net"),
    "mxnet": ("mxnet_net", "Net"),
    "jax": ("jax_net", "Net"),
    "linen": ("jax_net", "LinenNet"),
}


def on_device(backend: str, images: Array) -> Any:
    """The images as a user of the framework has them, in its layout."""
    single = images.astype(np.float32)
    if backend == "torch":
        import torch

        return torch.from_numpy(single)
    if backend == "mxnet":
        from mxnet import nd

        return nd.array(single)
    import jax.numpy as jnp

    return jnp.asarray(single.transpose(0, 2, 3, 1))


def record(net: str, folder: Path, **options: Any) -> Record:
    """Records a net, or the model that `options` bring, and reads what was written."""
    backend = "jax" if net == "linen" else net
    framework: Any = load_backend(backend)
    module = importlib.import_module(f"parity_tests.records.{NETS[net][0]}")
    images = on_device(backend, IMAGES)
    model = options.pop("model") if "model" in options else getattr(module, NETS[net][1])()
    if net == "linen":
        import jax

        options |= {"variables": model.init(jax.random.key(0), images), "train": {"train": True}}
    out = folder / f"{net}.safetensors"
    framework.record(model, images, out=out, **({"loss": module.loss} | options))
    return read_record(out)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of PyTorch's record, which the others are held against."""
    folder = tmp_path_factory.mktemp("records")
    record("torch", folder, generic=0)
    return folder


def against(reference: Path, net: str, folder: Path, **options: Any) -> Report:
    """A net with the reference's weights, by a map of its own, against the reference."""
    files = {"against": reference / "torch.safetensors", "map": folder / "map.toml"}
    ported = record(net, folder, **files, **options)
    return compare_records([read_record(files["against"]), ported], {})


NAMES = {
    "torch": ("weight", "running_mean"),
    "mxnet": ("gamma", "running_mean"),
    "jax": ("scale", "mean"),
}


def test_what_a_record_holds(backend: str, tmp_path: Path) -> None:
    found = record(backend, tmp_path, generic=0)
    scale, mean = NAMES[backend]
    names = {f"{mode}/stem:{side}" for mode in ("eval", "train") for side in ("in", "out")}
    names |= {"eval/shared@2:in", "eval/output.0" if backend == "mxnet" else "eval/output.classes"}
    names |= {f"grad/norm.{scale}", f"buffer/norm.{mean}", f"weight/norm.{mean}", "loss", "input"}
    assert names <= found.arrays.keys()
    assert all(array.dtype == np.float64 for array in found.arrays.values())
    assert found.order.index("eval/shared:out") < found.order.index("eval/shared@2:in")
    first, second = (found.arrays[f"eval/shared{call}"] for call in (":out", "@2:in"))
    assert np.array_equal(first, second)
    assert found.facts["random"] == []
    # one number may not move by chance, and what it is made of does
    assert found.noise["loss[0]"] >= max(found.noise[n] for n in found.noise if "train/out" in n)
    unused = [n for n in found.tensors if n.startswith("unused")]
    gradients = [found.arrays.get(f"grad/{n}") for n in unused]
    assert len(unused) == 2 and all(g is None or not g.any() for g in gradients)


@pytest.mark.parametrize("net", ["mxnet", "jax", "linen"])
def test_a_port_equals_its_model(reference: Path, net: str, tmp_path: Path) -> None:
    report = against(reference, net, tmp_path)
    parted = [d for d in report.differences if d.parted]
    # Flax and MXNet let the biased variance into the buffer, and MXNet's momentum is a float32
    buffers = ["running_mean", "running_var"] if net == "mxnet" else ["running_var"]
    assert [d.name for d in parted] == [f"buffer/norm.{name}" for name in buffers]
    decay = "0.899999976" if net == "mxnet" else "0.9"
    assert all(f"decay {decay}, biased variance, eps 1e-05" in d.cause for d in parted)
    names = {d.name for d in report.differences}
    assert {"local/train/down:out", "train/shared@2:out", "grad/up.weight", "loss[0]"} <= names
    assert {"eval/output.classes", "train/output.vector", "buffer/norm.running_mean"} <= names
    assert not report.findings


def state_of(backend: str, model: Any) -> dict[str, Any]:
    """Everything of a user's that a recorder must leave as it was."""
    if backend == "torch":
        import torch

        held = [*model.named_parameters(), *model.named_buffers()]
        arrays = {name: tensor.detach().numpy().copy() for name, tensor in held}
        arrays |= {f"grad {n}": p.grad.numpy().copy() for n, p in model.named_parameters()}
        random = torch.random.get_rng_state().numpy().copy()
        return arrays | {"random": random, "modes": [m.training for m in model.modules()]}
    if backend == "mxnet":
        held = model._collect_params_with_prefix()
        arrays = {name: p.data().asnumpy() for name, p in held.items()}
        trained = {name: p for name, p in held.items() if p.grad_req != "null"}
        return arrays | {f"grad {name}": p.grad().asnumpy() for name, p in trained.items()}
    import jax
    from flax import nnx

    leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))))
    modes = model.norm.use_running_average, model.drop.deterministic
    return {str(k): np.asarray(x) for k, x in enumerate(leaves)} | {
        "modes": modes,
        "x64": bool(jax.config.read("jax_enable_x64")),
    }


def equal(a: Any, b: Any) -> bool:
    """To the bit, and in the type."""
    if isinstance(a, np.ndarray):
        return bool(a.dtype == b.dtype and np.array_equal(a, b))
    return bool(a == b)


@pytest.mark.filterwarnings("ignore:Parameter .* is not used")
def test_a_record_changes_nothing(backend: str, tmp_path: Path) -> None:
    framework: Any = load_backend(backend)
    module = importlib.import_module(f"parity_tests.records.{NETS[backend][0]}")
    model, images = module.Net(), on_device(backend, IMAGES)
    if backend == "torch":
        module.loss(model(images)).backward()
        model.unused.bias.grad = model.unused.weight.grad = None
        for parameter in model.parameters():
            parameter.grad = parameter.detach() if parameter.grad is None else parameter.grad
        model.norm.eval()
    if backend == "mxnet":
        from mxnet import autograd

        model.hybridize()
        with autograd.record():
            loss = module.loss(model(images))
        loss.backward()
    before = state_of(backend, model)
    told = framework.record(
        model, images, out=tmp_path / "r.safetensors", loss=module.loss, generic=3, steps=2
    )
    after = state_of(backend, model)
    assert {name for name in before if not equal(before[name], after[name])} == set()
    if backend == "mxnet":
        assert model._active
    if backend == "torch":  # a norm that the user has frozen stays so
        names = [f"train/norm:{side}" for side in ("in", "out")]
        assert not np.allclose(*(told.arrays[name].mean((0, 2, 3)) for name in names))
        start, end = (told.arrays[f"{group}/norm.running_mean"] for group in ("weight", "buffer"))
        assert np.array_equal(start, end)


@pytest.mark.parametrize("backend", ["torch", "mxnet"])
def test_what_is_recorded_is_the_unrecorded_call_to_the_bit(backend: str, tmp_path: Path) -> None:
    load_backend(backend)
    module = importlib.import_module(f"parity_tests.records.{NETS[backend][0]}")
    model = module.Net()
    told = record(backend, tmp_path, model=model)
    if backend == "torch":
        import torch

        model.double().train()
        model.drop.eval()
        output = model(torch.from_numpy(IMAGES.astype(np.float32)).double())
        loss = module.loss(output)
        loss.backward()
        found = {
            f"grad/{n}": p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None
        }
        found |= {f"train/output.{n}": y.detach().numpy() for n, y in output.items()}
        found["loss"] = loss.detach().numpy()[None]
    else:
        from mxnet import autograd, nd

        model.drop._rate = 0
        model.cast("float64")
        with autograd.record():
            output = model(nd.array(IMAGES.astype(np.float32), dtype="float64"))
            loss = module.loss(output)
        loss.backward()
        held = model._collect_params_with_prefix().items()
        found = {f"grad/{n}": p.grad().asnumpy() for n, p in held if f"grad/{n}" in told.arrays}
        found |= {f"train/output.{k}": y.asnumpy() for k, y in enumerate(output)}
        found["loss"] = loss.asnumpy()
    assert len(found) > 15
    assert {name for name, array in found.items() if not equal(array, told.arrays[name])} == set()


def test_steps_of_the_user_s_optimizer(backend: str, tmp_path: Path) -> None:
    load_backend(backend)
    module = importlib.import_module(f"parity_tests.records.{NETS[backend][0]}")
    model = module.Net()
    optimizer: Any
    if backend == "torch":
        import torch

        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    elif backend == "mxnet":
        from mxnet.gluon import Trainer

        settings = {"learning_rate": 0.1, "momentum": 0.9}
        optimizer = Trainer(model.collect_params(), "sgd", settings)
    else:
        import optax

        optimizer = optax.sgd(0.1, momentum=0.9)
    told = record(backend, tmp_path, model=model, optimizer=optimizer, steps=3)
    assert told.arrays["loss"].shape == (3,)
    kernel = "shared.kernel" if backend == "jax" else "shared.weight"
    one = record(backend, tmp_path, model=model, optimizer=optimizer, steps=1)
    start, gradient, end = (
        one.arrays[f"{group}/{kernel}"] for group in ("weight", "grad", "final")
    )
    assert np.allclose(end, start - 0.1 * gradient, rtol=0, atol=1e-11)  # MXNet's 0.1 is a float32
    assert one.arrays["loss"][0] == pytest.approx(told.arrays["loss"][0], rel=1e-14)


def test_a_linen_module_comes_with_its_variables(tmp_path: Path) -> None:
    from backends.jax import record as jax_record
    from common.errors import InputError

    with pytest.raises(InputError, match="LinenNet: a Linen module needs its variables="):
        module = importlib.import_module("parity_tests.records.jax_net")
        jax_record(module.LinenNet(), on_device("jax", IMAGES), out=tmp_path / "x")


@pytest.mark.needs("torch", "mxnet")
def test_a_layer_of_gluon_with_an_activation_inside(tmp_path: Path) -> None:
    """Its own output is what the activation is given."""
    from backends.mxnet import record as mxnet_record
    from backends.torch import record as torch_record

    load_backend("mxnet")
    import torch
    from mxnet.gluon import nn as gluon

    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten()
    model = torch.nn.Sequential(*layers, torch.nn.Linear(4 * 36, 5), torch.nn.Sigmoid())

    class Port(gluon.HybridBlock):
        def __init__(self) -> None:
            super().__init__()
            self.features = gluon.Conv2D(4, 3, in_channels=3, activation="relu")
            self.again = self.features  # a second name of it
            self.output = gluon.Dense(5, in_units=4 * 36, activation="sigmoid")

        def hybrid_forward(self, F: Any, x: Any) -> Any:
            return self.output(self.features(x))

    port = Port()
    port.initialize()
    a, b = (tmp_path / f"{name}.safetensors" for name in ("a", "b"))
    torch_record(model, on_device("torch", IMAGES), out=a, loss=lambda y: y.sum(), generic=0)
    mxnet_record(port, on_device("mxnet", IMAGES), out=b, loss=lambda y: y.sum(), against=a)
    assert read_record(b).calls == ["features", "features.act", "output", "output.act"]
    report = compare_records([read_record(a), read_record(b)], {})
    assert report.passed, report.verdict()
    names = {d.name for d in report.differences}
    assert {"local/train/0:out", "train/3:in", "train/3:out", "eval/output"} <= names
    assert "local/eval/3:out" in names  # though its counterpart is called `output`


@pytest.mark.full
@pytest.mark.needs("torch", "mxnet", "jax")
def test_our_own_network_is_one_of_any(tmp_path: Path) -> None:
    """FCN-8s as `record` sees it: equal in all three, but that MXNet's trainer unbiases later."""
    from common.config import Head
    from parity_tests.conftest import new_trainer

    images = np.random.default_rng(0).normal(size=(2, 3, 64, 96)).astype(np.float32)
    records: list[Path] = []
    for backend in ("torch", "mxnet", "jax"):
        framework: Any = load_backend(backend)
        model = new_trainer(backend, head=Head.fcn8s).model  # type: ignore[attr-defined]
        out = tmp_path / f"{backend}.safetensors"
        given = on_device(backend, images)
        options = {"against": records[0]} if records else {}
        framework.record(model, given, loss=lambda y: (y**2).mean(), out=out, **options)
        records.append(out)
    report = compare_records([read_record(path) for path in records], {})
    parted = {(d.trace, d.stage) for d in report.differences if d.parted}
    assert {stage for _, stage in parted} == {"buffer"}
    assert report.odd == ["mxnet"]
    names = {d.name for d in report.differences}
    assert {
        "local/train/up_layer4:out",
        "train/transpose_conv:out",
        "grad/score_layer2.bias",
    } <= names


@pytest.mark.needs("mxnet")
def test_what_a_norm_of_gluon_keeps_and_does_not_use_is_no_tensor(tmp_path: Path) -> None:
    """Without scale and center it has a gamma and a beta that stay 1 and 0."""
    backend: Any = load_backend("mxnet")
    from mxnet.gluon import nn

    net = nn.Sequential()
    net.add(nn.BatchNorm(scale=False, center=False), nn.Dense(4), nn.LayerNorm(center=False))
    net.initialize()
    images = on_device("mxnet", IMAGES)
    net(images)
    found = backend.record(net, images, generic=0, out=tmp_path / "x.safetensors")
    statistics = {"0.running_mean", "0.running_var"}
    assert {*found.tensors} == statistics | {"1.weight", "1.bias", "2.gamma"}
    x = found.arrays["eval/0:in"]
    mean, var = (found.tensor(f"0.running_{own}").reshape(1, 3, 1, 1) for own in ("mean", "var"))
    normal = (x - mean) / np.sqrt(var + 1e-5)
    assert np.allclose(found.arrays["eval/0:out"], normal, rtol=1e-7)


def test_eval_mode_alone(backend: str, tmp_path: Path) -> None:
    found = record(backend, tmp_path, loss=None, train=False)
    assert {name.partition("/")[0] for name in found.arrays} == {"eval", "input", "weight"}
    other = Record("b", found.arrays, found.metadata)
    assert compare_records([found, other], {}).passed
    (tmp_path / "both").mkdir()
    both = record(backend, tmp_path / "both", against=tmp_path / f"{backend}.safetensors")
    told = compare_records([found, Record("b", both.arrays, both.metadata)], {}).findings
    assert f"{found.label} was recorded without train mode, b with it" in [f.text for f in told]


@pytest.mark.needs("torch")
def test_packed_sequences_go_in(tmp_path: Path) -> None:
    import torch
    from torch import nn

    from backends.torch import record as torch_record

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 4, batch_first=True)

        def forward(self, packed: Any) -> Any:
            return self.rnn(packed)[0]

    inputs, net = torch.randn(3, 5, 3), Net()
    packed = nn.utils.rnn.pack_padded_sequence(inputs, torch.tensor([5, 3, 2]), batch_first=True)
    out = tmp_path / "a.safetensors"
    found = torch_record(net, packed, out=out, loss=lambda y: y.data.square().mean())
    assert np.array_equal(found.arrays["input.0.1"], packed.batch_sizes)
    expected = net.double()(packed.to(torch.float64)).data.detach().numpy()
    assert np.allclose(found.arrays["eval/output.0"], expected, rtol=0, atol=1e-12)


@pytest.mark.needs("torch")
def test_a_weight_that_is_made_of_others_is_told(tmp_path: Path) -> None:
    import torch
    from torch import nn

    from backends.torch import record as torch_record

    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    found = torch_record(net, torch.ones(2, 3), out=tmp_path / "a.safetensors")
    assert found.facts["notes"][0].startswith("0: weight is made of other tensors")


def test_many_inputs_are_in_their_order(tmp_path: Path) -> None:
    """By place where the sides nest them otherwise: the eleventh is not before the third."""
    arrays = {f"input.{k}": np.full(2, k) for k in range(12)}
    nested = {name.replace("input", "input.0"): array for name, array in arrays.items()}
    metadata = {"record": '{"layers": {}, "tensors": {}, "order": []}'}
    a, b = Record("a", dict(sorted(arrays.items())), metadata), Record("b", nested, metadata)
    assert paired_outputs(b, a) == {f"input.0.{k}": f"input.{k}" for k in range(12)}
