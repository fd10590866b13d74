"""Simulators whose truth is known: corpora of counts, students, scenes.

    from sim import PAPER_MODELS, PAPER_SOURCES, sample

The names below are imported when first used; ``import sim`` loads nothing.
"""

try:
    from theory.lazy import lazy_exports
except ImportError as error:
    import theory

    found = theory.__file__ or theory.__path__
    raise ImportError(
        f"sim needs its own package theory, but {found} is imported by that name: put "
        f"the folder of {__file__} before it on sys.path"
    ) from error

_HOMES = {
    "HierarchicalBeta": "corpus.laws",
    "Martingale": "corpus.laws",
    "TwoStateChain": "corpus.laws",
    "WithAllNegative": "corpus.laws",
    "Source": "corpus.sources",
    "PAPER_SOURCES": "corpus.sources",
    "PAPER_MODELS": "corpus.calibrate",
    "Targets": "corpus.calibrate",
    "calibrate": "corpus.calibrate",
    "sample": "corpus.draw",
    "sample_with_latent": "corpus.draw",
    "expected": "corpus.draw",
    "fit": "corpus.fit",
    "FeatureWorld": "students.features",
    "CorpusLaw": "students.problem",
    "draw_problem": "students.problem",
    "Student": "students.train",
    "train": "students.train",
    "World": "scenes.world",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
