"""Hugging Face's networks, in PyTorch and in Flax, small and at random: nothing is downloaded."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from backends import load_backend
from common.parity.records import Record
from common.protocol import Array

SIZE, CLASSES, WORDS, LENGTH = 32, 10, 50, 12
"""Pixels of an image's side, classes; words that there are, and of a sentence."""


def _resnet(layer_type: str) -> Any:
    from transformers import ResNetConfig

    widths = {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 128], "depths": [2, 2, 2, 2]}
    return ResNetConfig(layer_type=layer_type, num_labels=CLASSES, **widths)


_WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_WIDTHS |= {"intermediate_size": 64, "num_labels": CLASSES}


def _vit() -> Any:
    from transformers import ViTConfig

    return ViTConfig(image_size=SIZE, patch_size=8, **_WIDTHS)


def _bert() -> Any:
    from transformers import BertConfig

    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertConfig(vocab_size=WORDS, max_position_embeddings=LENGTH, **off, **_WIDTHS)


CONFIGS: dict[str, Callable[[], Any]] = {
    "ResNetBasic": lambda: _resnet("basic"),
    "ResNetBottleneck": lambda: _resnet("bottleneck"),
    "ViT": _vit,
    "Bert": _bert,
}
_CLASSES = {"Bert": "BertForSequenceClassification", "ViT": "ViTForImageClassification"}


def _class(name: str) -> str:
    return _CLASSES.get(name, "ResNetForImageClassification")


def given(name: str) -> dict[str, Array]:
    """What a network is called with: two images (2, 3, 32, 32), or two sentences (2, 12)."""
    random = np.random.default_rng(0)
    if name != "Bert":
        return {"pixel_values": random.normal(size=(2, 3, SIZE, SIZE)).astype(np.float32)}
    words = random.integers(0, WORDS, (2, LENGTH))
    words[0, 0] = 0  # the word that fills a sentence up, which PyTorch's table does not train
    mask = np.ones_like(words)
    mask[1, 9:] = 0
    kinds = np.repeat([[0, 1]], LENGTH // 2, axis=1).repeat(2, axis=0)
    places = np.arange(LENGTH)[None].repeat(2, axis=0)
    told = {"input_ids": words, "attention_mask": mask, "token_type_ids": kinds}
    return told | {"position_ids": places}


def torch_model(name: str) -> Any:
    """A network in PyTorch, of the names in `CONFIGS`."""
    import transformers

    return getattr(transformers, _class(name))(CONFIGS[name]())


def torch_side(name: str, **options: Any) -> Record:
    """Records it; `options` are those of `record`."""
    framework: Any = load_backend("torch")
    import torch

    keywords = {key: torch.from_numpy(array) for key, array in given(name).items()}
    loss = {"loss": lambda y: y.logits.square().mean()}
    return framework.record(torch_model(name), keywords=keywords, **loss, **options)


def flax_side(name: str, **options: Any) -> Record:
    """Records the same in Flax: the Linen module inside the class that Hugging Face gives."""
    framework: Any = load_backend("jax")
    import jax.numpy as jnp
    import transformers

    model = getattr(transformers, f"Flax{_class(name)}")(CONFIGS[name]())
    held: Mapping[str, Any] = model.params
    arrays = given(name)
    if "pixel_values" in arrays:
        arrays["pixel_values"] = arrays["pixel_values"].transpose(0, 2, 3, 1)
    keywords = {key: jnp.asarray(array) for key, array in arrays.items()}
    return framework.record(
        model.module,
        keywords=keywords if "pixel_values" in arrays else keywords | {"head_mask": None},
        train={"deterministic": False},
        eval={"deterministic": True},
        variables=held if "params" in held else {"params": held},
        loss=lambda y: (y.logits**2).mean(),
        **options,
    )
