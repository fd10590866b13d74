"""`mprm annotate run`: continue the prefixes of a plan with the demo's policy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.console.command import answer
from experiments.console.options import SeedOption
from experiments.console.progress import progress
from experiments.corpora.simulated import MADE_HERE
from experiments.store.provenance import versions
from experiments.store.write_subset import check_output
from mprm_jax.data.continuations import answer_line, read_plan, read_prefixes
from mprm_jax.data.outputs import OutputSet, manifest_path


@dataclasses.dataclass(frozen=True)
class Options(SeedOption):
    """Continue the prefixes of a plan with the policy that labelled a simulated world.

    Draws the world of mprm simulate scenes again, checks that it is the one on disk,
    and lets its policy go on from each prefix; the answers are new continuations, other
    ones for every plan. For a model of your own see
    mprm_jax.data.continuations.Generator: prefixes in, final answers out.

    Example: mprm annotate run CORPUS --plan prefixes.jsonl --output answers.jsonl

    Attributes:
        corpus: Folder that mprm simulate scenes wrote, or mprm annotate merge made of
            it.
        plan: What mprm annotate plan wrote, in the form of records.
        output: File to write; the manifest goes beside it.
        policy: Who continues: tiny, the policy of the visual worlds.
    """

    corpus: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    plan: Path
    output: Path = Path("runs/answers.jsonl")
    policy: Literal["tiny"] = "tiny"


OPTIONS = Options


def run(options: Options) -> None:
    """Continue and write."""
    # Imported here: they would slow down --help.
    from experiments.corpora.continue_scenes import scene_generator

    inputs = options.plan, manifest_path(options.plan), options.corpus / MADE_HERE
    check_output(options.output, options.corpus, *inputs)
    plan = read_plan(options.plan)
    asked = read_prefixes(options.plan)
    generator = scene_generator(options.corpus, int(plan.sha256[:16], 16), options.seed)
    total = 0
    with OutputSet() as outputs, progress("continuing", len(asked), "prefixes") as tick:
        output = outputs.add(options.output)
        found = zip(asked, generator(asked), strict=True)
        for done, (prefix, answers) in enumerate(found, 1):
            output.write(answer_line(prefix, answers))
            total += len(answers)
            tick(done)
        manifest = {
            "versions": versions(),
            "policy": options.policy,
            "seed": options.seed,
            "plan": plan.sha256,
            "output": output.facts(),
        }
        outputs.add_manifest(manifest_path(options.output), manifest)
    value = {"output": str(options.output), "prefixes": len(asked), "answers": total}
    answer(
        options.json,
        value,
        f"wrote {options.output}: {total:,} answers to {len(asked):,} prefixes",
    )
