"""The order in which the values of a record are made, and which of them from which."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from common.parity.order import Place, group_of
from common.parity.records import LOCAL, TENSOR_GROUPS, Record, split_value

_MADE_FROM = {
    "loss": {"train"},
    "grad": {"train", "loss", "grad"},
    "buffer": {"train"},
    "final": {"train", "loss", "grad", "buffer", "final"},
}
"""From which groups a difference comes down to one; none comes down to the local run."""


class RecordOrder:
    """The order of the values of records: see `common.parity.order.Order`.

    Each part of the local run stands alone; of the passes, what goes into a layer follows from what
    came before, and what comes out follows from what went in.
    """

    def __init__(self, reference: Record, steps: int) -> None:
        passes = reference.order
        trained = [name for name, tensor in reference.tensors.items() if tensor.trained]
        place = {path: k for k, path in enumerate(reference.calls)}
        owners = reference.owners
        # what the network itself owns, as a class token, is read before its layers are called
        backward = sorted(trained, key=lambda name: -place.get(owners[name], -1))
        self.reference = reference
        self.values = [
            *(f"local/{name}" for name in passes if split_value(name)[1]),
            *passes,
            "loss[0]",
            *(f"grad/{name}" for name in backward),
            *(f"buffer/{name}" for name in reference.tensors if name not in trained),
            *(f"loss[{step}]" for step in range(1, steps)),
            *(f"final/{name}" for name in reference.tensors),
        ]

    def stage_of(self, name: str) -> str:
        stages = {"local": "local", "eval": "forward", "train": "forward", "loss[0]": "forward"}
        stages |= {"grad": "gradient", "buffer": "buffer"}
        return stages.get(name) or stages.get(group_of(name), "steps")

    def layer_of(self, name: str) -> str | None:
        group, _, tensor = name.partition("/")
        if group in TENSOR_GROUPS:
            return self.reference.owners.get(tensor)
        return split_value(name)[1] or None

    def behind(self, layer: str | None, names: Collection[str]) -> list[str]:
        """Those of some values of the pass in train mode that are made after a layer is called."""
        place = {name: k for k, name in enumerate(self.reference.order)}
        called = [k for n, k in place.items() if split_value(n)[:2] == ("train", layer)]
        return [name for name in names if place[name] > min(called, default=-1)]

    def inherits(self, name: str, parted: Sequence[str]) -> bool:
        group, groups = group_of(name), {group_of(other) for other in parted}
        if group == "local":  # what a layer does in eval mode it does in training too
            return name.replace("local/train/", "local/eval/", 1) in parted
        if group in ("eval", "train"):
            if f"local/{name}" in parted or f"eval/{name.removeprefix('train/')}" in parted:
                return True
            layer, side, _ = name.partition(":out")
            if side:
                return any(other.startswith(f"{layer}:in") for other in parted)
            return group in groups
        if name != "loss[0]" and group == "loss":
            group = "final"
        return bool(groups & _MADE_FROM.get(group, set()))

    def healed(self, parted: Mapping[str, bool]) -> set[str]:
        """What is done in another place, and is right again before the network's end.

        A value of a pass that returns what the reference returns; and of the local run, which puts
        the reference's values in between, what is healed in the pass, or agrees there.
        """
        found: set[str] = set()
        for mode in ("eval/", "train/"):
            names = [name for name in parted if name.startswith(mode)]
            returned = [name for name in names if not split_value(name)[1]]
            if returned and not any(parted[name] for name in returned):
                found |= {name for name in names if parted[name]}
        alone = {name for name in parted if name.startswith(LOCAL) and parted[name]}
        for name in alone:
            plain = name.removeprefix(LOCAL)
            if plain in found or not parted.get(plain, True):
                found.add(name)
        return found

    def place_of(self, name: str, present: Collection[str]) -> Place:
        local, plain = name.startswith(LOCAL), name.removeprefix(LOCAL)
        mode, layer, _, side = split_value(plain)
        if side.startswith("out"):
            return Place(f"made by {self.reference.layers[layer].kind}", (layer,))
        if plain.startswith("grad/"):
            owner = self.reference.owners[plain.removeprefix("grad/")]
            later = [n for n in self.values if n in present and n.startswith("grad/")]
            others = [self.reference.owners[n[5:]] for n in later[: later.index(plain)]]
            behind = next((other for other in reversed(others) if other != owner), "")
            words = f"on the way back from {behind or 'the loss'} to {owner or 'the network'}"
            return Place(words, (behind, owner))
        if not side and "output" not in plain:
            found = self.layer_of(name)
            return Place(modules=(found,) if found else ())
        before = self.reference.order[: self.reference.order.index(plain)]
        outs = [n for n in before if ":out" in n and n.startswith(mode)]
        if origin := self._origin(plain, outs):
            outs = outs[: outs.index(origin) + 1]
        known = [n for n in outs if (f"{LOCAL}{n}" if local else n) in present]
        start = split_value(known[-1])[1] if known else ""
        unpaired = outs[outs.index(known[-1]) + 1 :] if known else outs
        leaves = [split_value(n)[1] for n in unpaired]
        inner = ", ".join(dict.fromkeys(leaves[:3])) + (", ..." if len(leaves) > 3 else "")
        words = f"between {start or 'the input'} and {layer or 'the output'}"
        return Place(words + (f" ({inner})" if inner else ""), (start, layer))

    def _origin(self, name: str, outs: Sequence[str]) -> str | None:
        """The output that a value is, though perhaps in another shape."""
        arrays = self.reference.arrays
        value = arrays[name].ravel()
        alike = (n for n in reversed(outs) if arrays[n].size == value.size)
        return next((n for n in alike if np.array_equal(arrays[n].ravel(), value)), None)
