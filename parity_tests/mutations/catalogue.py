"""Every fault, area by area."""

from parity_tests.mutations import batch_norm, data, loss, model, optimizer, weights

FAULTS = [
    *data.FAULTS,
    *weights.FAULTS,
    *model.FAULTS,
    *batch_norm.FAULTS,
    *loss.FAULTS,
    *optimizer.FAULTS,
]
