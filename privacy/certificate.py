"""Certificate: what may be promised about a release, as data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What is promised about one release, and how it was made. Nothing in it says when or where that was.

    Attributes:
        statement: the promise in plain words.
        formal_guarantee: None, or the parameters of differential privacy.
        disclosure_control: the rules that pooled rare values, or None where they were turned off.
        synthesizer: name of the model.
        model_digest: SHA-256 of the model.
        recipe_digest: SHA-256 of the recipe.
        schema_digest: SHA-256 of the released schema.
        rows: rows released.
        shards: files of data, of each draw.
        seed: of the synthetic draw.
        warnings: findings of the gate that did not refuse the release.
        versions: of the packages that the numbers depend on.
        draws: times that the table was drawn from the model, each of so many rows.
        learned_rows: rows that the model learned from, about: what intervals of estimates need.
        parity: what was asked to be alike in groups, so not as learned, in words; None for nothing.
        watermark: the number of the key that images are marked with, and how strongly; None: they are not.
        drift: how the columns of the input differed from the schema, where the recipe allowed that.
        shadow_models: what the last attack by shadow models on this configuration found, and on which day; None where
            there was none.
    """

    statement: str
    formal_guarantee: Mapping[str, Any] | None
    disclosure_control: Mapping[str, Any] | None
    synthesizer: str
    model_digest: str
    recipe_digest: str
    schema_digest: str
    rows: int
    shards: int
    seed: int
    warnings: int
    versions: Mapping[str, str]
    draws: int = 1
    learned_rows: int | None = None
    parity: Mapping[str, Any] | None = None
    drift: Sequence[str] = ()
    watermark: Mapping[str, Any] | None = None
    shadow_models: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As the release carries it."""
        return {"format": FORMAT, "synthetic": True, **asdict(self)}


def without_guarantee(at_least: int) -> tuple[str, dict[str, Any] | None]:
    """The promise of a release without a privacy section: statement, and the rules of disclosure control.

    Args:
        at_least: units that had to share a value; 0 means that disclosure control was off.
    """
    formal = (
        "No formal privacy guarantee: the model learned from the private rows exactly. Rows are drawn from "
        "the model, not taken from the table, but nothing bounds what a release says about one person."
    )
    if at_least == 0:
        return f"{formal} Disclosure control was turned off: rare values and extremes may be real ones.", None
    control = (
        f"Disclosure control: values that fewer than {at_least} units share were pooled, and extremes were cut "
        f"at the value of rank {at_least}."
    )
    return f"{formal} {control}", {"at_least": at_least, "pooled": "rare values", "cut": "extremes"}


def formal(
    *,
    epsilon: float,
    delta: float,
    spent_epsilon: float,
    curve: Mapping[str, float],
    failure_delta: float,
    unit: str | None,
    unit_rows: int,
    mechanisms: Sequence[Mapping[str, Any]],
    declared: Mapping[str, str],
    lifetime: Mapping[str, Any],
    audit: Mapping[str, Any] | None,
    versions: Mapping[str, str],
    exact_report: bool = False,
    report_rows: str | None = None,
    units_about: int | None = None,
) -> dict[str, Any]:
    """The parameters of a formal guarantee, after NIST SP 800-226 and the OpenDP deployments registry.

    Args:
        epsilon: what is promised, at `delta`.
        delta: probability that the loss is larger.
        spent_epsilon: what the answers cost together, at `delta`.
        curve: Rényi divergence by order.
        failure_delta: part of delta that finding categories may fail with.
        unit: the column that names a unit; None where each row is one.
        unit_rows: rows of a unit that were kept at most.
        mechanisms: every answer with its noise and cost.
        declared: columns whose facts were taken as public, and the source that was named.
        lifetime: the dataset's budget, what its blocks have spent, where it has some, and the head of its ledger.
        audit: the last lower bound on epsilon for this configuration, on made-up rows; None where there was none.
        versions: of the packages that account and draw.
        exact_report: whether an exact report was made inside, which nothing here covers.
        report_rows: which rows the noised figures are about; None where there are none.
        units_about: about how many units there are, as the schema says.
    """
    return {
        "model": "central differential privacy",
        "epsilon": epsilon,
        "delta": delta,
        "spent_epsilon": spent_epsilon,
        "neighbours": "one privacy unit added or removed"
        + (", with its place in its block" if lifetime.get("blocks") else ""),
        "unit": "a row" if unit is None else f"all rows of one {unit}, at most {unit_rows} of them kept",
        "renyi_curve": dict(curve),
        "failure_delta": failure_delta,
        "mechanisms": [dict(m) for m in mechanisms],
        "accountant": f"Rényi differential privacy, dp-accounting {versions['dp-accounting']}, add or remove one",
        "gradients": f"clipped row by row, by closed forms and opacus {versions['opacus']}",
        "randomness": f"discrete Gaussian and Gumbel noise by OpenDP {versions['opendp']}, seeded by the operating "
        "system; noise on gradients, and the units that each step draws, by AES-256 in counter mode, keyed by the "
        "operating system; the split of rows by a secret of the run",
        "floating_point": "counts are whole numbers; sums of floats are rounded to a grid of d entries: its step times "
        "√d, and 2⁻⁸ of the bound for errors of summation, are part of the sensitivity; a statistic that computes in "
        "float32 has been seen to err by a fifth of that; "
        "noise on gradients is added in float64, and so not exactly Gaussian",
        "public_by_declaration": dict(declared),
        "units_about": units_about,
        "not_covered": [
            "names, order, kinds, types and unit of the columns, whoever looked at the rows to choose them",
            "facts of the schema that were declared, whoever looked at the rows to declare them",
            "the time a run took, and whether it was refused",
            "the run's workspace, which is inside and must stay there",
            *([_EXACT] if exact_report else []),
        ],
        "quality_figures": "of what the model was fitted to"
        if report_rows is None
        else f"noised and charged, part `report` of the mechanisms: of {report_rows}",
        "exact_report": exact_report,
        "lifetime": dict(lifetime),
        "audit": None if audit is None else dict(audit),
    }


_EXACT = (
    "an exact report of the private rows, which was made in the workspace because the recipe asked for it: nothing of "
    "it is published, but whoever read it and changed a recipe by what it says has spent privacy that nobody counted"
)


def with_guarantee(guarantee: Mapping[str, Any]) -> str:
    """The promise of a release under differential privacy, in plain words."""
    read, left = ([b["block"] for b in _blocks(guarantee) if b["read"] is which] for which in (True, False))
    return (
        f"Differential privacy with epsilon {guarantee['epsilon']:g} and delta {guarantee['delta']:g}, for "
        f"{guarantee['unit']}: whatever somebody could learn about one unit from this release, he could have learned "
        f"nearly as well if that unit had never been in the table; no probability is changed by more than a factor "
        f"of {math.exp(guarantee['epsilon']):.3g}, but for one chance in {1 / guarantee['delta']:,.0f}. Everything in "
        "it is public by declaration, synthetic, or computed from noised answers that were charged."
        + (f" It was learned from blocks {', '.join(read)}, by when a unit was first seen." if read else "")
        + (
            f" Units of other blocks, which were spent or came later, were left out: {', '.join(left)}."
            if left
            else ""
        )
        + (
            " An exact report of the private rows was made inside, and is not covered: see `not_covered`."
            if guarantee.get("exact_report")
            else ""
        )
    )


def _blocks(guarantee: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    lifetime = guarantee.get("lifetime") or {}
    return lifetime.get("blocks") or ()
