"""A made-up result of `scripts.choose`, to show pages of."""

from typing import Any

from scripts.choose.rule import RULES, criteria_in_words, in_words

HOSTILE = "a<b>&\"q\" 'x' </script>{{ data }} <img src=x onerror=alert(1)>"
"""A name with all that means something to HTML or to the template."""


def _row(name: str, backend: str, mode: str, rate: float, **told: Any) -> dict[str, Any]:
    usual = {
        "name": name,
        "backend": backend,
        "form": "ours",
        "mode": mode,
        "dtype": "float32",
        "processes": 1,
        "reading": False,
        "error": None,
        "images_per_second": rate,
        "quartiles": [0.9 * rate, 1.1 * rate],
        "times_book": 1.5,
        "import_seconds": 1.0,
        "build_seconds": 2.0,
        "first_call_seconds": 3.0,
        "new_size_seconds": 0.5,
        "peak_mb": 1234.5,
        "versions": {},
    }
    return usual | told


def _column(name: str, released: str | None, **told: Any) -> dict[str, Any]:
    usual = {
        "name": name,
        "maintained": True,
        "why": "released",
        "source": "https://example.org/x",
        "versions": {name: "1.0"},
        "licences": {name: "MIT"},
        "own_mb": 1.5,
        "alone_mb": 700.0,
        "alone_packages": ["a", "b"],
        "numpy": {},
        "classifier_python": "3.15",
        "released": released,
        "newest_python": "3.14",
        "devices": ["cpu"],
        "dtypes": ["float32"],
        "formats": [{"name": "a", "reads": True, "writes": True}],
    }
    return usual | told


def made_up() -> dict[str, Any]:
    """PyTorch, JAX and ONNX Runtime are there, MXNet is not; JAX has no bfloat16."""
    code = {"source_code": {"files": 12, "lines": 1000, "differs": 20}}
    both = {"name": "a", "reads": True, "writes": True}, {"name": "b", "writes": True}
    training = [
        _row("PyTorch", "torch", "train", 10.0),
        _row("PyTorch (the book's form)", "torch", "train", 7.0, form="book"),
        _row("JAX", "jax", "train", 5.0),
        {"name": "JAX (bfloat16)", "backend": "jax", "form": "ours", "mode": "train"}
        | {"dtype": "bfloat16", "processes": 1, "reading": False, "error": "no such type"},
    ]
    prediction = [
        _row("PyTorch", "torch", "predict", 40.0),
        _row("JAX", "jax", "predict", 30.0),
        _row("JAX (bfloat16)", "jax", "predict", 10.0, dtype="bfloat16"),
        _row("ONNX Runtime", "torch", "predict", 39.0, form="onnxruntime"),
    ]
    return {
        "machine": {
            "date": "2026-11-30",
            "cpu": "A CPU",
            "system": "Linux x86_64",
            "python": "3.11.7",
            "cores": 2,
            "threads": 2,
            "memory_gb": 25.3,
            "load_before": 0.1,
            "seconds": 300.0,
        },
        "settings": {
            "size": [256, 384],
            "batch_size": 4,
            "rounds": 5,
            "processes": 1,
            "compile": False,
            "device": "cpu",
            "data": None,
            "command": "python -m scripts.choose",
        },
        "decisions": [
            {"reader": rule.reader, "need": rule.need, "chosen": ["PyTorch", "JAX"]}
            | {"reasons": ["A reason.", "Another reason."]}
            for rule in RULES
        ],
        "rule": in_words(),
        "criteria": {rule.reader: criteria_in_words(rule) for rule in RULES},
        "parity": {
            "passed": True,
            "verdict": "equal.",
            "steps": 3,
            "reference": "torch",
            "worst": {"jax": 1e-13},
            "equal": {"torch": True, "jax": True},
        },
        "training": training,
        "prediction": prediction,
        "frameworks": {
            "torch": _column("PyTorch", "2025-06-17", formats=both, **code),
            "mxnet": {"name": "MXNet", "maintained": False, "why": "retired"}
            | {"source": "https://example.org/m", "install": "pip install '.[mxnet]'"},
            "jax": _column("JAX", None, **code),
            "onnxruntime": _column("ONNX Runtime", "2026-11-13"),
        },
        "checked": "2026-11-01",
    }
