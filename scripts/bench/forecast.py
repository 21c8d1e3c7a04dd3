"""What more processes would give, on paper: when gradients are there, and how long they travel.

A step computes for so long; its gradients are there one after another while backward goes on, and
travel in messages. A message starts when all in it are there and the one before has arrived; the
step ends when the last one has. What the model leaves out only makes a step slower: that sending
takes cores or memory from computing, that processes differ, and that several share a wire.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.config import Config
from common.network.flops import forward_flops, training_flops
from common.network.tensors import config_tensors, gradient_shapes

MIB = 2**20

BUCKET, FIRST_BUCKET = 25 * MIB, 1 * MIB
"""DistributedDataParallel's: a message is full with so many bytes, and the first one sooner."""

ITEM = 4
"""Bytes of a gradient's number, float32."""


@dataclass(frozen=True)
class Wire:
    """What each process has to the others: bytes a second each way, and seconds to get across."""

    rate: float
    latency: float


@dataclass(frozen=True)
class Message:
    """Gradients that travel together: their bytes, and the share of backward they wait for."""

    size: int
    ready: float


Transfer = Callable[[int], float]
"""Seconds that so many bytes take until all processes have their sum."""


def _flops(config: Config) -> tuple[dict[str, int], dict[str, int]]:
    """Operations of forward and of backward, by the weight they are done with."""
    at = (config.architecture, config.num_classes, *config.crop, config.head)
    forward, training = forward_flops(*at), training_flops(*at)
    return forward, {name: training[name] - forward[name] for name in forward}


def backward_share(config: Config) -> float:
    """The share of a step's operations that backward is."""
    forward, backward = _flops(config)
    return sum(backward.values()) / sum([*forward.values(), *backward.values()])


def one_by_one(config: Config) -> list[Message]:
    """Each gradient by itself, in the order in which backward has them: MXNet's way."""
    _, backward = _flops(config)
    shapes, total, done = gradient_shapes(config), sum(backward.values()), 0
    messages = []
    for name in reversed(config_tensors(config)):
        done += backward.get(name, 0)
        if name in shapes:
            messages.append(Message(ITEM * math.prod(shapes[name]), done / total))
    return messages


def in_buckets(
    messages: Sequence[Message], first: float = FIRST_BUCKET, rest: float = BUCKET
) -> list[Message]:
    """Messages joined until they are so large: PyTorch's way. JAX's is one: `first` is infinite."""
    buckets: list[Message] = []
    size = 0
    for message in messages:
        size += message.size
        if size >= (rest if buckets else first):
            buckets.append(Message(size, message.ready))
            size = 0
    if size:
        buckets.append(Message(size, messages[-1].ready))
    return buckets


def ring(processes: int, wire: Wire) -> Transfer:
    """A ring all-reduce: a message goes around twice in N parts, so 2 (N - 1) / N of it each way.

    The engines may choose another one, but none has less to send.
    """
    hops = 2 * (processes - 1)
    return lambda size: hops * (size / processes / wire.rate + wire.latency)


def servers(processes: int, count: int, wire: Wire) -> Transfer:
    """MXNet's: each process pushes all to `count` servers and pulls the sum.

    Each server is beside a process, whose wire carries what that one sends to the other servers
    and what the server sends to the other processes. While one message is pulled the next is
    pushed, the other way.
    """
    load = (count - 1 + processes - 1) / count
    return lambda size: load * size / wire.rate + 2 * wire.latency


@dataclass(frozen=True)
class Engine:
    """How a backend's gradients travel: the messages, and each message's way."""

    messages: list[Message]
    transfer: Callable[[int, Wire], Transfer]


def engines(config: Config) -> dict[str, Engine]:
    """As the backends use them: by name, which begins with the backend's."""
    apart = one_by_one(config)
    return {
        "torch": Engine(in_buckets(apart), ring),
        "mxnet": Engine(apart, lambda count, wire: servers(count, count, wire)),
        "mxnet, one server": Engine(apart, lambda count, wire: servers(count, 1, wire)),
        "jax": Engine(in_buckets(apart, first=math.inf), ring),
    }


def step_seconds(
    compute: float, messages: Sequence[Message], transfer: Transfer, backward: float
) -> float:
    """How long a step takes that computes for `compute` seconds, the share `backward` in backward.

    What follows backward, the optimizer, is counted as part of it.
    """
    arrived = 0.0
    for message in messages:
        ready = compute * (1 - backward + backward * message.ready)
        arrived = max(arrived, ready) + transfer(message.size)
    return max(compute, arrived)
