"""A run's real tokens per second, padding and input pipeline included, and its idling.

    uv run python -m experiments.benchmarks.real_run

A corpus of random words and pictures in the committed distribution of lengths
(:mod:`experiments.benchmarks.padding`) is written to disk and trained on by the
product's own reader, loader and loop: adapters on some layers of a backbone of released
width with its whole vision tower, weights random. The run is made twice: the first
compiles every shape that occurs, the second is timed, from its first update to its
last. So are the same updates with every batch on the device beforehand: the bare step.
A run that keeps the device busy reaches 100 % of it. Fewer layers make the device
quicker and the host no slower, so the share is lower than that of a whole model.

One JSON line for each way to batch: rollouts padded, or packed in rows.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.benchmarks import full_depth, padding
from tests.mprm_jax.backbone_shapes import BackboneName
from theory.paper import TRAINING

# A run shall reach this share of its bare step.
TARGET = 0.85

# Names of the ids that the shapes give to pictures, and to what stands around them.
_SPECIAL = {
    "internvl2.5-8b": {5: "<IMG_CONTEXT>", 6: "<img>", 7: "</img>"},
    "qwen2.5-vl-7b": {3: "<|vision_start|>", 4: "<|vision_end|>", 5: "<|image_pad|>"},
}
# Words that the tokenizer knows; which they are matters to nobody.
_VOCABULARY = 390


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure a run beside its bare step.

    Attributes:
        backbone: Whose width and tower.
        layers: Of its decoder.
        batch_size: Rollouts per update.
        accumulate: Micro-batches of an update.
        updates: Of the run.
        threads: That read ahead.
        toy: A toy of the backbone and small pictures, on the CPU if need be.
    """

    backbone: BackboneName = "internvl2.5-8b"
    layers: int = 8
    batch_size: int = 32
    accumulate: int = 8
    updates: int = 6
    threads: int = 16
    toy: bool = False


def write_corpus(folder: Path, drawn: list[padding.Drawn], shrink: int) -> None:
    """Raw records of drawn rollouts, and their pictures; sides over ``shrink``."""
    from PIL import Image

    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)

    def words(count: int) -> str:
        count = max(1, round(padding.TOKENS_PER_WORD * count / shrink))
        return " ".join(f"w{i}" for i in rng.integers(40, _VOCABULARY, count))

    def picture(name: str, size: tuple[int, int]) -> str:
        # Smooth, so that a JPEG of it is as large as one of a photograph.
        width, height = (max(side // shrink, 32) for side in size)
        coarse = rng.integers(0, 256, (height // 16, width // 16, 3)).astype(np.uint8)
        image = Image.fromarray(coarse).resize((width, height))
        image.save(folder / "images" / name, quality=90)
        return name

    records = []
    for number, rollout in enumerate(drawn):
        named = enumerate(rollout.pictures)
        images = [picture(f"{number}-{i}.jpg", size) for i, size in named]
        steps = [
            {"step": words(count), "score": k / 16, "num_mc_correct": k,
             "num_mc_total": 16}
            for count, k in zip(
                rollout.steps,
                rng.integers(0, 17, len(rollout.steps)).tolist(),
                strict=True,
            )
        ]  # fmt: skip
        records.append(
            {"image": images, "question": words(rollout.question), "answer": "1",
             "response": "", "steps_with_score": steps}
        )  # fmt: skip
    lines = (json.dumps(record) + "\n" for record in records)
    (folder / "drawn.jsonl").write_text("".join(lines))


def make_job(options: Options, corpus: Path, **config: Any) -> Any:
    """What is trained: the corpus, by adapters of a backbone that can read it."""
    from mprm_jax.data.batches import open_ladder
    from mprm_jax.data.corpus import read_corpus, usable_rollouts
    from mprm_jax.data.loader import CorpusExamples
    from mprm_jax.data.prompt import add_step_marker
    from mprm_jax.models.families import Prompting, with_language
    from mprm_jax.records.record import ImageRoot
    from mprm_jax.train.config import TrainConfig
    from mprm_jax.train.loop import TrainingJob
    from mprm_jax.train.update_plan import plan
    from tests.mprm_jax.backbone_folder import tokenizer

    chosen = full_depth.Options(toy=options.toy)
    model = full_depth.make_model(chosen, options.backbone)
    words = tokenizer(_SPECIAL[options.backbone], _VOCABULARY)
    add_step_marker(words)
    base = dataclasses.replace(
        model.base,
        config=with_language(model.base.config, layers=options.layers),
        prompting=Prompting(),
        tokenizer=words,
    )
    model = dataclasses.replace(model, base=base)
    usable = usable_rollouts(read_corpus(corpus, use_cache=False))
    rows = np.arange(usable.rollouts.n_rollouts)
    source = CorpusExamples(usable, rows, model.encode, ImageRoot(corpus / "images"))
    settings = TrainConfig(
        **{"accumulate": options.accumulate, "threads": options.threads, **config}
    )
    steps = int(usable.rollouts.lengths.max())
    budget = plan(len(rows), options.batch_size)
    return TrainingJob(model, source, budget, open_ladder(steps), settings)


def run_seconds(job: Any, params: Any) -> float:
    """Of a run's updates but the first, before which there was nothing to compute."""
    from mprm_jax.train.loop import train

    told: list[float] = []
    train(job, params, on_update=lambda update: told.append(update.metrics["seconds"]))
    return told[-1] - told[0]


def bare_seconds(job: Any, params: Any, loaded: list[Any]) -> float:
    """Of the same updates with every batch on the device beforehand."""
    import jax

    from mprm_jax.train.update import UpdateRule, initial_state, update

    config = job.config
    placed = [jax.device_put(one.batches) for one in loaded]
    state, frozen = initial_state(
        job.model, params, job.plan, config.optimizer, config.learning_rate
    )
    rule, ends = UpdateRule(job.model, config.optimizer, config.objective), []
    for batches, one in zip(placed, loaded, strict=True):
        weight = float(one.total.weight)
        state, metrics = update(state, frozen, batches, weight, rule)
        jax.block_until_ready(metrics)
        ends.append(time.perf_counter())
    return ends[-1] - ends[0]


def measure(options: Options, corpus: Path, **changes: Any) -> dict[str, Any]:
    """Speed of one way to batch."""
    import jax

    from mprm_jax.train.loop import batches_of

    job = make_job(options, corpus, **changes)
    params = full_depth.draw(job.model, jax.random.key(0))
    began = time.perf_counter()
    run_seconds(job, params)
    first = time.perf_counter() - began
    seconds = run_seconds(job, params)
    batches = batches_of(job)
    loaded = [batches[number] for number in range(len(batches))]
    bare = [bare_seconds(job, params, loaded) for _ in range(2)][-1]
    real = sum(int(one.total.tokens) for one in loaded[1:])
    computed = sum(one.padded for one in loaded[1:])
    return {
        "device": jax.local_devices()[0].device_kind,
        "updates": len(loaded) - 1,
        "seconds": seconds,
        "bare_seconds": bare,
        "first_run_seconds": first,
        "real_tokens": real,
        "computed_tokens": computed,
        "real_share": real / computed,
        "real_tokens_per_second": real / seconds,
        "computed_tokens_per_second": computed / seconds,
        "of_bare_step": bare / seconds,
        "target_of_bare_step": TARGET,
    }


def main(options: Options) -> None:
    """Write, measure, print a line each."""
    ways = {"padded": {}, "packed": {"pack": TRAINING.max_tokens, "accumulate": 1}}
    drawn = padding.draw(options.updates * options.batch_size, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        write_corpus(corpus, drawn, 8 if options.toy else 1)
        for way, config in ways.items():
            found = measure(options, corpus, **config)
            print(json.dumps({"way": way, **found}), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
