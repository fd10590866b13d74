"""A tiny run of the demo on disk: what `mprm report` reads, with chosen numbers."""

import json
from dataclasses import asdict

import numpy as np
from PIL import Image, ImageDraw

from experiments.grid.plan import PAPER_RULES, Arm
from experiments.store.results import Result, append_results
from experiments.store.write_subset import SelectionOptions, choose, write_selection
from mprm_jax.data.corpus import read_corpus, usable_rollouts
from mprm_jax.data.formats.base import WriteOptions
from tests.raw_files import step, write_corpus

RULES = PAPER_RULES
SOURCES = ("bars", "counting", "digits")
KEEP_RATIO = 0.25
PER_SOURCE = 16
TRIALS = 16

# Micro-F1 by arm and seed; what BIS gains over Random is chosen per world.
LEVELS = {
    "random": 0.61,
    "bis": 0.61,
    "mixed": 0.645,
    "low-mc": 0.60,
    "reliable": 0.57,
    "full": 0.68,
    "base": 0.44,
}
# Random's and BIS's less those with hard labels.
CONTROLS = {"clean": (0.18, 0.21), "blind": (0.15, 0.14), "all-positive": (-0.1, -0.2)}
GATE = {
    "source": "bars",
    "within_position_auroc": 0.871,
    "low": 0.823,
    "permuted_images": 0.641,
}
GAINS = {"scarce": (0.05, 0.06, 0.055), "plentiful": (-0.02, 0.03, 0.004)}


def picture(path, rng):
    """A 48 x 48 scene."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (48, 48), "white")
    draw = ImageDraw.Draw(image)
    for i, tall in enumerate(rng.integers(6, 40, 5).tolist()):
        colour = tuple(rng.integers(30, 210, 3).tolist())
        draw.rectangle([3 + 9 * i, 46 - tall, 9 + 9 * i, 46], fill=colour)
    image.save(path)


def rollout(rng, mixed):
    """(record fields, truth) of one rollout: pure, or wrong from some step on."""
    n = int(rng.integers(3, 7))
    r = np.full(n, rng.choice([0.85, 0.95, 1.0]))
    correct = np.ones(n, int)
    if rng.random() < mixed:
        first = int(rng.integers(0, n))
        correct[first:] = -1
        # An early error can still be repaired.
        left = 2 - 2 * np.arange(first, n) / n
        r[first:] = rng.choice([0.0, 0.0, 0.06]) * left
    correct[0] = 0 if rng.random() < 0.1 else correct[0]
    k = rng.binomial(TRIALS, r)
    steps = [
        step(
            int(count), TRIALS, f"Bar {j + 1} is {int(rng.integers(2, 40))} units tall."
        )
        for j, count in enumerate(k[:-1])
    ]
    steps.append(step(int(k[-1]), TRIALS, "Final answer: 3"))
    truth = {"r": r.tolist(), "correct": correct.tolist(), "slip_rate": 0.05}
    return steps, truth


def write_world(folder, rng, mixed):
    """Corpus, images, truth and a subset per rule."""
    records, truths = {}, {}
    for name in SOURCES:
        records[f"{name}.jsonl"], lines = [], []
        for i in range(PER_SOURCE):
            image = f"{name}/{i:06d}.png"
            picture(folder / "corpus" / "images" / image, rng)
            steps, truth = rollout(rng, mixed)
            records[f"{name}.jsonl"].append(
                {
                    "image": image,
                    "question": f"How tall is the tallest bar in picture {i}?",
                    "answer": "3",
                    "response": "Because.",
                    "steps_with_score": steps,
                }
            )
            lines.append(json.dumps(truth) + "\n")
        truths[f"{name}.jsonl"] = "".join(lines).encode()
    write_corpus(folder / "corpus" / "annotations", records)
    write_corpus(folder / "corpus" / "truth", truths)
    write_subsets(folder)


def write_subsets(folder, seed=0):
    """What each rule keeps of the corpus as it is now."""
    usable = usable_rollouts(read_corpus(folder / "corpus"))
    for rule in RULES:
        options = SelectionOptions(
            rule, KEEP_RATIO, 0.05, True, "rollouts", "content", seed
        )
        write_selection(
            usable,
            choose(usable, options),
            options,
            folder / "subsets" / f"{rule}.jsonl",
            "prm",
            WriteOptions(),
        )


def metrics(level, rng, rollouts, replicates=50):
    """One trained model's numbers around a level."""
    updates = 60
    curve = [
        [u, round(0.7 - (level - 0.3) * u / updates + 0.04 * rng.standard_normal(), 4)]
        for u in range(1, updates + 1)
    ]
    spread = 0.004 * np.random.default_rng(7).standard_normal(replicates)
    return {
        "rollouts": rollouts,
        "updates": updates,
        "micro_f1": level,
        "macro_f1_pooled": round(level + 0.01, 6),
        "auroc": round(level + 0.1, 6),
        "within_position_auroc": round(level + 0.07, 6),
        "position_auroc": 0.612,
        "slip_prior_auroc": 0.534,
        "best_of_n": {"mean": round(level - 0.05, 6), "random": 0.4, "pass_at_n": 0.93},
        "per_source": {name: round(level + 0.01 * i, 6) for i, name in enumerate("ab")},
        "threshold": 0.47,
        "curve": curve,
        "eval_curve": [
            [u, round(0.5 + (level - 0.4) * u / updates + 0.01 * rng.random(), 4)]
            for u in range(0, updates + 1, 10)
        ],
        "bootstrap": {"micro_f1": (level + spread).tolist()},
    }


def arm_of(name, keep_ratio=KEEP_RATIO, control=None):
    """The arm of that name, as the demo has it."""
    labels = (None, None) if name == "base" else ("hard", 0.0)
    labels = (control, None) if control else labels
    alpha = 0.05 if name == "bis" else None
    keep = {"full": 1.0, "base": None}.get(name, keep_ratio)
    return Arm(name, keep, alpha, *labels)


def value_of(arm, seed, gain):
    """Micro-F1; the gain is BIS's over Random."""
    if arm == "bis":
        return LEVELS["random"] + 0.005 * (seed % 3 - 1) + gain
    place = list(LEVELS).index(arm)
    return LEVELS[arm] + 0.005 * ((7 * place + (seed or 0)) % 3 - 1)


def cells(world, gains, seeds=(0, 1, 2)):
    """The results of one world; the base has no seed, each seed a corpus."""
    rng = np.random.default_rng(3)
    kept = len(SOURCES) * int(PER_SOURCE * KEEP_RATIO)
    of_world = {"name": world, "synthetic": True, "size": "small", "seed": 0}
    found = []
    arms = [(arm, None, 0.0) for arm in LEVELS]
    for control, shifts in CONTROLS.items():
        pairs = zip(("random", "bis"), shifts, strict=True)
        arms += [(arm, control, shift) for arm, shift in pairs]
    for arm, control, shift in arms:
        for i, seed in enumerate(seeds if arm != "base" else (None,)):
            value = value_of(arm, seed, gains[i]) + shift
            config = {
                "world": of_world | {"corpora": len(seeds)},
                "corpus": f"of seed {seed or 0}",
                "model": "tiny",
                "training": {},
                "arm": asdict(arm_of(arm, control=control)),
            }
            rollouts = kept if arm in RULES else len(SOURCES) * PER_SOURCE
            found_here = metrics(round(value, 6), rng, rollouts)
            if (arm, control, seed, world) == ("random", "clean", 0, "scarce"):
                found_here["learnability"] = [GATE]
            if arm == "base":
                untrained = {"rollouts": 0, "updates": 0, "curve": [], "eval_curve": []}
                found_here |= untrained
            if control:
                found_here |= {"eval_curve": [], "best_of_n": None}
            found.append(Result("demo", config, seed, found_here))
    return found


def write_manifest(folder, **fields):
    """How the run was made."""
    value = {
        "commands": ["mprm demo --output runs/demo", "mprm report runs/demo"],
        "backbone": "It has read the worlds’ own solutions and checked their steps.",
        "pretraining": {"AUROC of its step check": "0.9812", "after update": "2400"},
        "versions": {"jax": "0.10.2"},
        "experiment": "demo",
        "arguments": {"size": "small"},
    } | fields
    (folder / "manifest.json").write_text(json.dumps(value), encoding="utf-8")


def write_run(folder, gains=None):
    """A whole run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mixed = {"scarce": 0.15, "plentiful": 0.6}
    rng = np.random.default_rng(5)
    for world, of in (gains or GAINS).items():
        write_world(folder / world, rng, mixed.get(world, 0.3))
        append_results(folder / "results", cells(world, of))
    write_manifest(folder)
    return folder
