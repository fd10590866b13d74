"""Which rollouts should a process reward model be trained on? From Python.

    import mprm_jax as mprm

    corpus = mprm.read_corpus("CORPUS")               # a path; K of N for every step
    table = mprm.frame(corpus, "bis", "max-drop")     # pandas: source, file, line, id
    subset = mprm.select(corpus, "bis", keep_ratio=0.1)
    mine = mprm.select(corpus, my_scores, keep_ratio=0.1)
    mprm.write_subset(subset, "subset.jsonl")         # as a trainer reads it
    print(mprm.compare_rules([my_rule, "bis"]))       # which one teaches a student best
    trained = mprm.train_model(subset, "runs/model")
    metrics = mprm.evaluate_scores(mprm.predict(trained, "test.jsonl"))
    differences = mprm.compare_scores("mine.jsonl", "theirs.jsonl").metrics
    more = mprm.theory.plan_continuations(corpus.rollouts, budget=1000)  # a step

Names are imported when first used, and ``mprm.theory`` and ``mprm.sim`` with them;
counting imports no JAX. Every name's docstring has an example.
"""

from importlib import import_module
from typing import Any

_NAMES = (
    "RULES",
    "read_corpus",
    "frame",
    "score",
    "select",
    "write_subset",
    "compare_rules",
    "simulate_corpus",
    "simulate_scenes",
    "load_model",
    "train_model",
    "predict",
    "evaluate_scores",
    "compare_scores",
)
# Packages, and names that lie elsewhere.
_ELSEWHERE = {
    "DataError": "mprm_jax.records.problems",
    "World": "experiments.students.worlds",
}
_PACKAGES = ("theory", "sim")

__all__ = [*_NAMES, *_ELSEWHERE, *_PACKAGES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mprm_jax.own_packages import require

    if name in _PACKAGES:
        require(name)
        value = import_module(name)
    else:
        require("theory", "experiments")
        value = getattr(import_module(_ELSEWHERE.get(name, "experiments.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
