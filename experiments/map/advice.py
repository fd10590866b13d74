"""What `mprm advise` says, as tables and sentences."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.console.tables import format_table
from experiments.console.text import count_of


def advice_as_text(report: dict[str, Any], inside: list[dict[str, Any]]) -> str:
    """What `mprm advise` prints.

    Args:
        report: what it prints with --json.
        inside: of its keep ratios those inside what was simulated.
    """
    lines = [
        f"compared with {count_of(report['worlds'], 'simulated world')}: "
        f"{report['results']}",
        "of this corpus:",
        *(f"  {n.replace('_', ' ')}: {v:.4f}" for n, v in report["measures"].items()),
        *_subset_lines(report["keep_ratios"], report["continuations"]),
        *_compared_lines(report, inside),
    ]
    if report["judged"] is not None:
        lines += _judged_lines(report["judged"], report["keep_ratios"])
    if inside:
        lines += _recommended_lines(report["recommended"], inside)
    lines += _sign_lines(report["signs"], report["judged"] is not None)
    return "\n".join([*lines, *_caveat_lines(report)])


def _subset_lines(every: Sequence[dict[str, Any]], continuations: int) -> list[str]:
    """What BIS would keep, and how many labels would be wrong elsewhere's way."""
    kept, expected = [], []
    for advice in every:
        of, keep = advice["subset"], _percent(advice["keep_ratio"])
        names = ("tied_share", "mixed_share", "all_positive_share")
        shares = (_percent(of[name]) for name in (*names, "all_negative_share"))
        kept.append((keep, str(of["rollouts"]), *shares))
        spans = (
            _span([one[rule][label] for one in of["expected"]])
            for label in ("wrong_positives", "right_negatives")
            for rule in ("bis", "random")
        )
        expected.append((keep, *spans))
    header = ("keep", "rollouts", "by ties", "mixed", "all right", "all wrong")
    rates = ("keep", "K > 0: BIS", "Random", "K = 0: BIS", "Random")
    lines = ["\nwhat BIS (alpha .05) keeps:\n", format_table(header, kept)]
    if continuations == 1:
        return [
            *lines,
            "\nno step has more than one label (N = 1): counts say nothing",
            "of how often labels are wrong",
        ]
    return [
        *lines,
        "\nand what share of the labels would be wrong if wrong steps succeeded as",
        "judges elsewhere found, and 5 to 20 % were wrong:\n",
        format_table(rates, expected),
    ]


def _compared_lines(
    report: dict[str, Any], inside: Sequence[dict[str, Any]]
) -> list[str]:
    """What counts alone predict, where the corpus is like simulated ones, and how it
    is unlike where it is not.
    """
    every = report["keep_ratios"]
    shown = ("bis - random", "bis - mixed", "bis - full")
    rows = [
        (
            _percent(advice["keep_ratio"]),
            *(
                "--" if advice["outside"] else _interval(advice["gains"][name])
                for name in shown
            ),
        )
        for advice in every
    ]
    lines = []
    if inside:
        lines += [
            "\nby counts alone, micro-F1 of BIS less that of others, 90 % intervals:\n",
            format_table(("keep", "Random", "Mixed", "all data"), rows),
        ]
    near = ", ".join(f"{advice['distance']:.2f}" for advice in every)
    reach = every[0]["reach"]
    lines.append(f"\ndistance to the nearest world (inside up to {reach:.2f}): {near}")
    unlike: dict[str, list[dict[str, Any]]] = {}
    for advice in every:
        for name in advice["outside"]:
            unlike.setdefault(name, []).append(advice)
    if unlike:
        lines.append("outside what was simulated:")
    return lines + [_unlike(name, of, report) for name, of in unlike.items()]


def _unlike(
    name: str, outside: Sequence[dict[str, Any]], report: dict[str, Any]
) -> str:
    """One input that lies outside what was simulated, not as a logarithm."""
    shares = ", ".join(_percent(advice["keep_ratio"]) for advice in outside)
    everywhere = len(outside) == len(report["keep_ratios"])
    at = "" if everywhere else f" at {shares}"
    if name not in report["simulated"]:
        return f"  {name}{at}"
    plain = name.removeprefix("log ").removesuffix(", log")
    told = [advice["inputs"][name] for advice in outside]
    told += report["simulated"][name]
    *values, low, high = (
        f"{x:,.0f}" if x >= 1000 else f"{x:.3g}"
        for x in (told if plain == name else np.exp(told))
    )
    shown = ", ".join(dict.fromkeys(values))
    return f"  {plain}: {shown} (simulated: {low} to {high}){at}"


def _judged_lines(judged: dict[str, Any], every: Sequence[dict[str, Any]]) -> list[str]:
    """What the judged rollouts say, and what follows from them."""
    lines = [
        f"\njudged: {count_of(judged['steps'], 'step')} of "
        f"{count_of(judged['rollouts'], 'rollout')} by "
        f"{judged['truth']}, {judged['wrong']} wrong",
        *(f"{n} left out: {reason}" for reason, n in judged["left_out"].items()),
        *_trial_lines(judged["trial"], every),
        "position tells wrong steps with K > 0 from those with K = 0 with AUROC "
        + _value(judged, "position_auroc"),
        "Random at any keep ratio: right of K > 0 "
        f"{_value(judged, 'ppv')}, wrong of K = 0 {_value(judged, 'npv')}",
        "\nAUROC of BIS less that of Random by the formula, 90 % intervals:\n",
    ]
    both = any(advice["judged"]["both"] is not None for advice in every)
    rows = [
        (
            _percent(advice["keep_ratio"]),
            _value(of := advice["judged"], "ppv"),
            _value(of, "npv"),
            _interval(of["formula"]),
            *(["--" if of["both"] is None else _interval(of["both"])] if both else []),
            _verdict(of["both"] or of["formula"]),
        )
        for advice in every
    ]
    header = ("keep", "right of K > 0", "wrong of K = 0", "formula")
    header += ("with counts", "BIS") if both else ("BIS",)
    lines.append(format_table(header, rows))
    assumed = judged["assumed"]
    return [
        *lines,
        "\nThe formula assumes what neither counts nor judges see:",
        f"  --clean-auroc {_clean_auroc(assumed['separation']):.2f} --ease "
        f"{assumed['ease']:g} --position {assumed['position']:g} --knowledge "
        f"{assumed['knowledge']:g} --dimension {assumed['dimension']}",
    ]


def _trial_lines(
    trial: dict[str, Any] | None, every: Sequence[dict[str, Any]]
) -> list[str]:
    """What heads on hidden states say; without a model, what they would need."""
    if trial is None:
        return ["a trial of heads on your backbone says more, in minutes: --model"]
    rows = [
        (_percent(advice["keep_ratio"]), *("--", "nothing to learn"))
        if (of := advice["judged"]["trial"]) is None
        else (_percent(advice["keep_ratio"]), _interval(of), _verdict(of))
        for advice in every
    ]
    return [
        f"\ntrial: heads on hidden states of {trial['model']}, on what BIS and Random "
        f"keep of\n{trial['rollouts']:,} rollouts that nobody judged; AUROC on the "
        "judged steps, 90 % intervals:\n",
        format_table(("keep", "BIS - Random", "BIS"), rows),
        *(
            f"{trial[key]:,} {key.split('_')[0]} do not fit the model and are left out"
            for key in ("steps_cut_off", "rollouts_cut_off")
            if trial[key]
        ),
        "",
    ]


def _clean_auroc(separation: float) -> float:
    from scipy.special import ndtr

    return float(ndtr(separation / math.sqrt(2)))


def _recommended_lines(
    best: dict[str, Any], inside: Sequence[dict[str, Any]]
) -> list[str]:
    parts = "; ".join(f"{d['input']} {d['adds']:+.3f}" for d in inside[0]["drivers"])
    advised = "all data; no rule is told apart from it"
    lines = [
        f"\nby counts alone, what moves BIS - Random most at "
        f"{_percent(inside[0]['keep_ratio'])}:\n  {parts}",
        f"recommended: {_as_options(best) if best['told_apart'] else advised}",
        "if only a share can be trained on, the largest predictions are:",
    ]
    for one in best["if_a_share"]:
        gain = _interval(one["over_all_data"])
        lines.append(f"  {_as_options(one)}  ({gain} against all data)")
    return lines


def _sign_lines(signs: dict[str, dict[str, Any]], judged: bool) -> list[str]:
    """How many judged rollouts tell the sign, by the validation."""
    if not signs:
        return []

    def cells(of: dict[str, float] | None) -> tuple[str, ...]:
        if of is None:
            return ("--",) * 3
        lost = f"{of['losses_found']} of {of['losses']}"
        return f"{of['sure_right']:.2f}", lost, f"{of['explained']:.2f}"

    rows = [
        (name.split(", ")[-1], *cells(of["alone"]), *cells(of["stated"]))
        for name, of in signs.items()
    ]
    header = ("judged", "sign right", "losses", "explained")
    header += ("stated: sign", "losses", "explained")
    told = signs["none"]["alone"]
    lines = [] if judged else ["\ncounts alone do not tell whether BIS gains or loses."]
    return [
        *lines,
        f"\nBIS - Random in {told['worlds']} simulated worlds that no predictor saw; "
        f"signs of the {told['losses'] + told['gains']}",
        "told apart from 0, by counts and so many judged rollouts (--judged), and if",
        "what features show and the model knows is stated, too:\n",
        format_table(header, rows),
    ]


# Judged rollouts of which the validation on visual worlds is told.
_SAMPLE = "100"


def _caveat_lines(report: dict[str, Any]) -> list[str]:
    """What the same predictors were worth where models were really trained."""
    tried = report["judged"] is not None and report["judged"]["trial"] is not None
    what = "but the trial" if tried else "of this"
    lines = [f"\nAll {what} is of simulated linear students."]
    visual = report["visual"]
    if visual is None:
        return lines
    of = visual["counts"]
    signs = {name: f"{x['sure_right']:.2f}" for name, x in visual.items()}
    told, lost = of["gains"] + of["losses"], of["losses"]
    said = (
        "In visual worlds, where probes and nets were really trained (mprm run "
        f"judged_scenes), the gain is told apart from 0 in {told:g} of "
        f"{of['worlds']:g} cells, {lost:g} of them losses. Counts have the sign of "
        f"{signs['counts']} right, with {_SAMPLE} judged rollouts {signs['both']}, "
        f'stated {signs["both, stated"]}; always "loses" {lost / told:.2f}.'
    )
    if (trial := visual.get("trial")) is not None:
        sure = trial["worlds"] - trial["open"]
        said += (
            f" A trial, open or not, has {signs['trial']} of them with {_SAMPLE} "
            f"judged rollouts of 8,000, {signs['trial, 200']} with 200; {sure:.0f} of "
            f"{trial['worlds']:g} are not open, and of these "
            f"{trial['right_if_sure_of_all']:.2f} are right. Sizes say little. Nearly "
            "all cells are such heads: of whole training it is weak evidence."
        )
    lines.append(textwrap.fill(said, 80))
    return lines


def _verdict(gain: dict[str, float]) -> str:
    if gain["low"] > 0:
        return "gains"
    return "loses" if gain["high"] < 0 else "open"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _span(shares: Sequence[float | None]) -> str:
    known = [share for share in shares if share is not None]
    ends = (f"{min(known):.2f}", f"{max(known):.2f}") if known else ()
    return "-".join(end.removeprefix("0") for end in ends) or "--"


def _value(of: dict[str, Any], name: str) -> str:
    if of[name] is None:
        return "--"
    low, high = of[f"{name}_interval"]
    return f"{of[name]:.2f} [{low:.2f}, {high:.2f}]".replace("0.", ".")


def _interval(gain: dict[str, float]) -> str:
    return "{gain:+.3f} [{low:+.3f}, {high:+.3f}]".format(**gain).replace("0.", ".")


def _as_options(one: dict[str, Any]) -> str:
    alpha = "" if one["alpha"] is None else f" --alpha {one['alpha']:g}"
    return f"--rule {one['rule']} --keep-ratio {one['keep_ratio']:g}{alpha}"
