"""The figure of efficiencies: what bounds what, at every keep ratio."""

import numpy as np

from paper_figures import contrast


def test_no_rule_beats_the_best_subset_nor_that_the_best_weights():
    cell = {
        "config": {
            "world": {"name": "w"},
            "arm": {
                "rule": "bis",
                "keep_ratio": 0.1,
                "unit": "rollouts",
                "labels": "hard-0",
            },
        },
        "metrics": {"auroc": [0.7, 0.8]},
    }
    drawing = contrast.efficiency([cell])
    curves = {}
    for panel, series, x, y in drawing.rows:
        curves.setdefault((panel, series), {})[x] = y
    assert curves["AUROC, w", "bis"] == {10.0: 0.75}
    of = {
        series: np.array([curve[keep] for keep in sorted(curve)])
        for (panel, series), curve in curves.items()
        if panel.startswith("efficiency")
    }
    assert np.all(of["best subset"] < of["any weights"])
    rules = [name for name in of if name not in ("best subset", "any weights")]
    for rule in rules:
        assert np.all(of[rule] < of["best subset"]), rule
    # Rollouts that are not mixed add nothing; a random share keeps about that share.
    np.testing.assert_allclose(of["mixed"][2:], 1)
    keep = np.array([0.02, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5])
    np.testing.assert_allclose(of["random"], keep, atol=0.05)
