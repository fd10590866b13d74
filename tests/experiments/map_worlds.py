"""Made-up worlds of the map, for tests of what is fitted to them."""

import numpy as np

from experiments.map.design import ARMS, AXES
from experiments.store.results import Result, append_results


def measures(rng, mixed, errors):
    """Measures of a world: mixed share and error-step ratio given, others drawn."""
    return {
        "mixed_share": float(mixed),
        "error_step_ratio": float(errors),
        "mean_mc": float(rng.uniform(0.4, 1.0)),
        "between_share": float(rng.uniform(0.2, 0.9)),
        "low_positive_share": float(rng.uniform(0, 0.2)),
        "mixed_reliability": float(rng.uniform(0.1, 0.7)),
    }


def world(index, rng, gain, others=0.0, noise=0.005):
    """A world that looks like any other; ``gain(keep, mixed)`` of BIS over all data,
    ``others`` of the rest. Its looks span those of a simulated corpus.
    """
    keep = float(rng.choice(AXES["keep_ratio"]))
    mixed = float(np.exp(rng.uniform(np.log(0.02), np.log(0.5))))
    base = rng.normal(0.7, 0.01, 20)
    arms = {name: {"micro_f1": (base + others).tolist()} for name in ARMS}
    arms["full"] = {"micro_f1": base.tolist()}
    planted = gain(keep, mixed) + rng.normal(0, noise)
    arms["bis"] = {"micro_f1": (base + planted).tolist()}
    found = {
        "measures": measures(rng, mixed, mixed * rng.uniform(0.2, 0.7)),
        "updates": float(np.exp(rng.uniform(np.log(5), np.log(2000)))),
        "arms": arms,
    }
    config = {"axes": {"keep_ratio": keep}, "held_out": index % 5 == 4, "index": index}
    return Result("regimes", config, 0, found)


def lossy_world(index, rng, gain):
    """A world where BIS gains ``gain(keep)`` and all other rules lose."""
    return world(index, rng, lambda keep, mixed: gain(keep), -0.05, 0.001)


def write_worlds(folder, gain, count=600):
    """Stored lossy worlds; those that are not held out. By default more of them than
    the reference has.
    """
    rng = np.random.default_rng(0)
    worlds = [lossy_world(i, rng, gain) for i in range(count)]
    append_results(folder, worlds)
    return [w for w in worlds if not w.config["held_out"]]
