"""Records of any network held against each other: paired, in the names of the first, and judged."""

from collections.abc import Mapping, Sequence

import einops
import numpy as np

from common.config import Dtype
from common.errors import InputError
from common.parity.causes import name_causes
from common.parity.compare import judge_again, report_of
from common.parity.decisions import changed_zeros
from common.parity.mapping import Map
from common.parity.pairing import (
    check_names,
    check_start,
    outputs,
    paired_layers,
    same_names,
    translate,
)
from common.parity.record_order import RecordOrder
from common.parity.records import Record
from common.parity.report import Difference, Finding, Report
from common.parity.sources import name_sources
from common.parity.tolerances import EPS, Tolerance, decided_tolerance, ratio_tolerance


def compare_records(records: Sequence[Record], maps: Mapping[str, Map]) -> Report:
    """Holds records of any network against one another, in the names of the first.

    `maps` tells by label how the tensors of a record are made from the first's; without an entry,
    the record's own map is taken, and without that, its names are the first's.

    Raises:
        InputError: nothing is paired, or they were made from other weights or inputs.
    """
    first, *others = records
    translated, layers = [first], {first.label: first.layers}
    paths = {first.label: {path: path for path in first.layers}}
    for record in others:
        found = maps.get(record.label) or record.map or same_names(record, first)
        check_names(found, record, first)
        try:
            translated.append(translate(record, first, found))
        except (ValueError, einops.EinopsError) as error:
            told = str(error).strip().splitlines()[0]
            raise InputError(f"{record.label}: its map does not fit: {told}") from None
        pairs = paired_layers(record, first, found)
        of_all = ("", "") in {
            (record.owners.get(e.b), first.owners.get(e.a)) for e in found.entries
        }
        if not pairs and not of_all:  # what the network itself owns is of no layer
            raise InputError(f"{record.label}: no layer is paired with one of {first.label}")
        layers[record.label] = {theirs: record.layers[mine] for mine, theirs in pairs.items()}
        paths[record.label] = {"": "", **{theirs: mine for mine, theirs in pairs.items()}}
        check_start(translated[-1], first)
    order = RecordOrder(first, max(r.steps for r in records))
    mixed = len({r.dtype for r in records}) > 1
    if mixed and first.dtype != Dtype.float64:
        raise InputError(f"{first.label}: in {first.dtype}; give the record in float64 first")
    report = report_of(translated, first if mixed else None, order)
    if mixed:
        _judge_by_ratio(report, translated, order)
    named = {record.label: record for record in translated}
    for label in report.compared:
        report.findings += _missing_gradients(named[label], named[report.reference])
    for record in others:
        report.findings += _left_out(record, first)
        report.findings += _trained_alone(record, maps.get(record.label) or record.map)
    name_causes(report, translated, layers)
    name_sources(report, {record.label: record.layers for record in records}, paths)
    return report


VANISHES = 0.1
"""A gradient that moves by so much of itself when inputs move by a rounding is rounding itself."""


def _judge_by_ratio(report: Report, records: Sequence[Record], order: RecordOrder) -> None:
    """Judges records in a coarser dtype by the others in it whose own noise vouches for them.

    A ReLU that decides otherwise there changes the gradients of the layers before it.
    """
    by_label = {record.label: record for record in records}
    reference = by_label[report.reference]
    changed = {r.label: changed_zeros(r.arrays, reference.arrays) for r in records}
    errors: dict[tuple[str, str], dict[str, float]] = {}
    for d in report.differences:
        if d.tolerance is not None and d.error <= d.tolerance.limit:
            errors.setdefault((d.name, by_label[d.trace].dtype), {})[d.trace] = d.error

    def tolerance(d: Difference) -> Tolerance | None:
        own, zeros = usual(d), changed[d.trace]
        if own is None or not zeros or d.stage not in ("gradient", "steps"):
            return own
        layer = d.layer if d.stage == "gradient" else None
        return decided_tolerance(own, sum(zeros[name] for name in order.behind(layer, zeros)))

    def usual(d: Difference) -> Tolerance | None:
        dtype = by_label[d.trace].dtype
        found = errors.get((d.name, dtype), {})
        others = [error for trace, error in found.items() if trace != d.trace]
        moves = reference.noise.get(d.name, 0.0) * EPS[dtype] / EPS[reference.dtype]
        if dtype == Dtype.float64 or not others or moves > VANISHES:
            return d.tolerance
        return ratio_tolerance(max(others), by_label[d.trace].noise.get(d.name, 0.0), dtype)

    judge_again(report, tolerance)


def _left_out(record: Record, first: Record) -> list[Finding]:
    """What one of two returns, or was recorded with, and the other was not."""
    findings = []
    for mode in ("eval", "train"):
        mine, theirs = (len(outputs(r, mode)) for r in (record, first))
        if mine and theirs and mine != theirs:
            text = f"returns {mine} arrays in {mode} mode, {first.label} {theirs}"
            findings.append(Finding(record.label, f"{mode}/output", text))
    for group, what in (("train/", "train mode"), ("loss", "loss="), ("final/", "optimizer=")):
        held = [any(name.startswith(group) for name in r.arrays) for r in (first, record)]
        if held[0] != held[1]:
            with_it, without = (first, record) if held[0] else (record, first)
            text = f"{without.label} was recorded without {what}, {with_it.label} with it"
            findings.append(Finding(record.label, group.rstrip("/"), text))
    if all("loss" in r.arrays for r in (record, first)) and record.steps != first.steps:
        text = f"makes {record.steps} steps, {first.label} {first.steps}"
        findings.append(Finding(record.label, "loss", text))
    return findings


def _trained_alone(record: Record, found: Map | None) -> list[Finding]:
    """Tensors without a counterpart in a map that have a gradient, and that are no rounding."""
    findings = []
    for name in found.unmatched.get("b", {}) if found else ():
        gradient, noise = record.arrays.get(f"grad/{name}"), record.noise.get(f"grad/{name}", 0.0)
        if gradient is not None and gradient.any() and noise < VANISHES:
            text = f"{name} has a gradient and no counterpart: it is trained here alone"
            findings.append(Finding(record.label, f"grad/{name}", text))
    return findings


def _missing_gradients(record: Record, reference: Record) -> list[Finding]:
    """Gradients that one of two has, and that are no rounding, and the other has not."""
    if not all("loss" in r.arrays for r in (record, reference)):
        return []
    findings = []
    paired = {name for r in (record, reference) for name in r.facts.get("paired", ())}
    for name in sorted(paired):
        held = [r for r in (record, reference) if f"grad/{name}" in r.arrays]
        if len(held) != 1:
            continue
        array, noise = held[0].arrays[f"grad/{name}"], held[0].noise.get(f"grad/{name}", 0.0)
        if array.any() and noise < VANISHES:
            other = reference if held[0] is record else record
            size = float(np.linalg.norm(array))
            text = f"{name} has no gradient in {other.label}, one of size {size:.1e} in"
            findings.append(Finding(record.label, f"grad/{name}", f"{text} {held[0].label}"))
    return findings
