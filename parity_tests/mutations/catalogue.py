"""Every mutation, area by area."""

from parity_tests.mutations import (
    batch_norm,
    data,
    heads,
    loss,
    model,
    optimizer,
    parts,
    tuning,
    upsampling,
    weights,
)

AREAS = {
    "data": data.MUTATIONS,
    "weights": weights.MUTATIONS,
    "network": [*model.MUTATIONS, *upsampling.MUTATIONS, *heads.MUTATIONS],
    "BatchNorm": batch_norm.MUTATIONS,
    "loss": loss.MUTATIONS,
    "gradient, optimizer, rate": optimizer.MUTATIONS,
    "fine-tuning": tuning.MUTATIONS,
    "parts of a batch": parts.MUTATIONS,
}

MUTATIONS = [mutation for area in AREAS.values() for mutation in area]
