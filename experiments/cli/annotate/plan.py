"""`mprm annotate plan`: the prefixes whose continuation is worth most."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import tyro
from scipy.special import betaincc

from experiments.console.command import answer
from experiments.console.corpus import CorpusOptions, line_rows, load_usable
from experiments.console.errors import UsageError
from experiments.console.options import (
    Checked,
    Hidden,
    OptionalPath,
    OptionalStr,
    PictureOptions,
    check_least,
)
from experiments.console.progress import progress
from experiments.console.tables import format_table
from experiments.corpora.simulated import MADE_HERE
from experiments.store.manifests import command_of
from experiments.store.write_subset import check_output, corpus_manifest
from mprm_jax.data.continuations import Prefix, batch_request, prefixes
from mprm_jax.data.corpus import SelectableCorpus
from mprm_jax.data.outputs import OutputSet, manifest_path
from mprm_jax.data.write import picture_root
from mprm_jax.records.problems import DataError
from mprm_jax.records.record import UnmeasuredPolicy, resolve_image
from theory.annotation import (
    PlanOptions,
    expected_gain,
    neighbour_prior,
    plan_continuations,
)
from theory.continuations import continuations_per_step, one_beta
from theory.placement import part_of_rollout, relative_position
from theory.rollouts import Rollouts
from theory.scores import moment_prior

# Where in its rollout a step stands.
_PARTS = ("first fifth", "second", "third", "fourth", "last fifth")

# A step's cost in continuations where only their number is asked.
_DEAR = 1e12

# K/N up to each of these, and the names of what lies between; the last has no N.
_SHARES = (0.0, 0.25, 0.5, 0.75, 1 - 1e-9)
_SCORES = ("0", "to 1/4", "to 1/2", "to 3/4", "below 1", "1", "never sampled")


@dataclasses.dataclass(frozen=True)
class PlanGroup(Checked, PlanOptions):
    """What a continuation is worth.

    Attributes:
        global_: One budget of the rule for the whole corpus, not one per source.
    """

    per_source: Hidden[bool] = True
    seed: Hidden[int] = 0
    global_: Annotated[bool, tyro.conf.arg(name="global")] = False


@dataclasses.dataclass(frozen=True)
class Options(PictureOptions, CorpusOptions):
    """Which steps deserve more continuations?

    Spends a budget of continuations where the criterion expects most of them: the hard
    label flips (flip), the counts tell more of the truth (information), or the rollout
    crosses the cut of a rule's subset (cut). Writes one prefix a line, to be continued
    by any generator, or as requests of the OpenAI batch API, which vllm run-batch
    reads; mprm annotate merge adds the answers to the corpus.

    Example: mprm annotate plan CORPUS --budget 10000 --criterion information --output
    prefixes.jsonl

    Attributes:
        budget: Continuations to spend.
        output: File to write; the manifest goes beside it.
        plan: What a continuation is worth.
        unmeasured: As elsewhere, but steps that were never sampled are kept: they can
            be planned.
        last_steps: Continue last steps, too; nothing is left to continue behind a final
            answer, so they are left out.
        form: records (question, image, steps so far, and n, the continuations wanted)
            for a program of yours, openai for the OpenAI batch API.
        model: Named in the requests of --form openai.
        page: Where a page of the plan goes (one HTML file).
    """

    budget: int = dataclasses.field(kw_only=True)
    output: Path = Path("runs/prefixes.jsonl")
    plan: PlanGroup = dataclasses.field(default_factory=PlanGroup)
    unmeasured: UnmeasuredPolicy = "keep"
    last_steps: bool = False
    form: Literal["records", "openai"] = "records"
    model: OptionalStr = None
    page: OptionalPath = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, budget=1)
        if self.unmeasured == "negative":
            raise UsageError("--unmeasured negative makes counts that nobody drew")
        if self.model is not None and self.form != "openai":
            raise UsageError("--model needs --form openai")
        if self.page in (self.output, manifest_path(self.output)):
            raise UsageError("--page and --output are the same file")


OPTIONS = Options


def run(options: Options) -> None:
    """Plan, write, and describe."""
    for path in filter(None, (options.output, options.page)):
        check_output(path, options.corpus, options.corpus / MADE_HERE)
    usable = load_usable(options)
    usable.need_counts("a plan")
    counts = usable.rollouts
    wanted = dataclasses.replace(
        options.plan, seed=options.seed, per_source=not options.plan.global_
    )
    open_steps = np.ones(counts.n_steps, bool)
    if not options.last_steps:
        open_steps[counts.offsets[1:] - 1] = False
    try:
        with progress("planning", None):
            prior = neighbour_prior(counts, open_steps)
            more = plan_continuations(
                counts,
                options.budget,
                wanted,
                prior=prior,
                content=usable.content,
                only=open_steps,
            )
    except ValueError as error:
        raise DataError(f"{options.corpus}: {error}") from None
    facts = _facts(counts, more, open_steps, wanted, prior)
    with OutputSet() as outputs:
        output = outputs.add(options.output)
        for line in _lines(options, usable, more):
            output.write(line)
        manifest = corpus_manifest(usable) | {
            "plan": dataclasses.asdict(wanted) | {"budget": options.budget},
            **facts,
            "output": output.facts() | {"form": options.form},
        }
        outputs.add_manifest(manifest_path(options.output), manifest)
    value = {"output": str(options.output), **facts, **line_rows(usable)}
    if options.page is not None:
        from experiments.page.annotation import write_plan_page
        from experiments.page.html import Made

        inputs = {of["file"]: of["sha256"] for of in manifest["inputs"]}
        command = command_of("mprm annotate plan", options, options.corpus)
        made = Made(command, inputs)
        write_plan_page(options.page, options.corpus.name, value, made)
        value["page"] = str(options.page)
    answer(options.json, value, lambda: _text(options, facts))


def _lines(
    options: Options, usable: SelectableCorpus, more: np.ndarray
) -> Iterator[bytes]:
    planned = prefixes(usable, more)
    if options.form == "records":
        yield from (msgspec.json.encode(prefix) + b"\n" for prefix in planned)
        return
    rows = np.flatnonzero(usable.rollouts.total(more > 0))
    root = picture_root(usable, rows, options.root)

    def pictures(prefix: Prefix) -> list[str]:
        paths = prefix.image or ()
        paths = (paths,) if isinstance(paths, str) else paths
        return [resolve_image(root, path).as_uri() for path in paths]

    for prefix in planned:
        try:
            request = batch_request(prefix, options.model, pictures(prefix))
        except DataError as error:
            raise DataError(f"{prefix.file}:{prefix.line}: {error}") from None
        yield msgspec.json.encode(request) + b"\n"


def _facts(
    counts: Rollouts,
    more: np.ndarray,
    open_steps: np.ndarray,
    wanted: PlanOptions,
    prior: tuple[np.ndarray, np.ndarray],
) -> dict[str, Any]:
    """What is continued where, and what is expected of it, beside the same number of
    continuations spread evenly.
    """
    spent, steps = int(more.sum()), int(open_steps.sum())
    each, rest = divmod(spent, steps)
    even = np.zeros(counts.n_steps, np.int64)
    even[open_steps] = each + (np.arange(steps) * rest % steps < rest)
    expected = {}
    for name in ("flip", "information"):
        value = dataclasses.replace(wanted, criterion=name)
        expected[name] = [
            expected_gain(counts, n, value, prior=prior) for n in (more, even)
        ]
    part = part_of_rollout(relative_position(counts), len(_PARTS))
    flips = expected["flip"][0]

    def of_steps(name: str, of: np.ndarray) -> dict[str, Any]:
        return {
            "part": name,
            "steps": int(of.sum()),
            "zero": int((of & (counts.successes == 0)).sum()),
            "continued": int(((more > 0) & of).sum()),
            "continuations": int(more[of].sum()),
            "flips": float(flips[of].sum()),
        }

    share = counts.successes / np.maximum(counts.trials, 1)
    bins = np.searchsorted(_SHARES, share, side="left")
    bins[counts.trials == 0] = len(_SCORES) - 1
    return {
        "priors": np.unique(np.stack(prior, axis=1), axis=0).tolist(),
        "tau": wanted.tau,
        "prefixes": int(np.count_nonzero(more)),
        "continuations": spent,
        "most": int(more.max()),
        "expected": {
            name: {"plan": float(plan.sum()), "even": float(evenly.sum())}
            for name, (plan, evenly) in expected.items()
        },
        "most_telling_trials": _most_telling(counts, wanted),
        "doubt": _doubt(counts, open_steps, wanted.tau, prior),
        "parts": [of_steps(name, part == i) for i, name in enumerate(_PARTS)],
        "scores": [of_steps(name, bins == i) for i, name in enumerate(_SCORES)],
    }


def _doubt(
    counts: Rollouts,
    steps: np.ndarray,
    tau: float,
    prior: tuple[np.ndarray, np.ndarray],
) -> float:
    """Sum of ``Var(1[r >= tau] | K)`` over the steps."""
    k, n = (x.astype(np.int64) for x in (counts.successes, counts.trials))
    columns = np.stack([prior[0] + k, prior[1] + n - k])[:, steps]
    pairs, times = np.unique(columns, axis=1, return_counts=True)
    right = betaincc(*pairs, tau)
    return float((times * right * (1 - right)).sum())


def _most_telling(counts: Rollouts, wanted: PlanOptions) -> int | None:
    """The N at which 1[K > 0] tells most of r >= tau; None where tau leaves one class
    no probability.
    """
    prior = moment_prior(counts)
    share = float(betaincc(*prior, wanted.tau))
    with contextlib.suppress(ValueError):
        laws = one_beta(*prior, wanted.tau)
        return int(continuations_per_step(share, laws, _DEAR, "hard", wanted.most))
    return None


def _text(options: Options, facts: dict[str, Any]) -> str:
    header = ("part of rollout", "steps", "K = 0", "continued", "drawn", "flips")
    rows = [
        (
            of["part"],
            *(f"{of[n]:,}" for n in ("steps", "zero", "continued", "continuations")),
            f"{of['flips']:,.1f}",
        )
        for of in facts["parts"]
    ]
    flips, told = (facts["expected"][name] for name in ("flip", "information"))
    left = options.budget - facts["continuations"]
    lines = [
        format_table(header, rows),
        "",
        f"{facts['continuations']:,} continuations of {facts['prefixes']:,} steps, at "
        f"most {facts['most']:,} each"
        + (f"; {left:,} of the budget buy nothing." if left else "."),
        f"Expected to flip: {flips['plan']:,.1f} hard labels (spread evenly: "
        f"{flips['even']:,.1f}).",
        f"Expected to settle: {told['plan']:,.2f} (evenly: {told['even']:,.2f}) of "
        f"{facts['doubt']:,.2f}, the",
        "variance of right or wrong over all steps that may be continued.",
    ]
    if (best := facts["most_telling_trials"]) is not None:
        tau = f"{options.plan.tau:g}".removeprefix("0")
        lines.append(
            f"Hard labels K > 0 tell most of r >= {tau} at N = {best}; counts and "
            "posteriors tell\nmore with every N."
        )
    corpus, output = (shlex.quote(str(x)) for x in (options.corpus, options.output))
    lines += [
        f"\nwrote {options.output} ({options.form})",
        "next: have them continued (mprm annotate run does it in a simulated world), "
        "then",
        f"mprm annotate merge {corpus} --plan {output} --answers answers.jsonl",
    ]
    return "\n".join(lines)
