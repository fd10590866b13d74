"""`mprm run corpus_models`: what its tables print of the predictions."""

import numpy as np

from experiments.corpora import corpus_models
from experiments.corpora.corpus_models import coverage, per_source
from sim.corpus.calibrate import PAPER_MODELS
from tests.cli import run
from theory.rollouts import Rollouts


def test_coverage_over_r_and_mixture_is_printed_within_eighty_columns(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(corpus_models.SCALES, "small", 0.001)
    arguments = ["run", "corpus_models", "--output", tmp_path]
    found = run(capsys, *arguments, "--json").json["models"]
    printed = run(capsys, *arguments).out
    section = printed[printed.index("Coverage of BIS-25 %") :].splitlines()[:-1]
    assert max(map(len, section)) <= 80
    for key, name, bins in (("coverage_R", "R", 11), ("coverage_mixture", "p(1-p)", 6)):
        start = next(i for i, row in enumerate(section) if row.split()[:1] == [name])
        assert section[start].split()[1:] == list(PAPER_MODELS)
        rows = section[start + 2 : start + 2 + bins]
        for i, row in enumerate(rows):
            cells = row.split()[-len(PAPER_MODELS) :]
            for cell, model in zip(cells, PAPER_MODELS, strict=True):
                table = found[model][key]
                if not table["all"][i]:
                    assert cell == "-"
                    continue
                share = 100 * table["selected"][i] / table["all"][i]
                assert abs(float(cell.rstrip("%")) - share) <= 0.051
        # The top edge stands alone, after the bin that ends below it.
        assert rows[-1].split()[0] == f"{found['hierarchical'][key]['edges'][-1]:g}"
        assert rows[-2].split("  ")[0].endswith(")")
        assert rows[0].startswith("[0, ")


def test_coverage_by_hand():
    values = np.array([0.0, 0.1, 0.15, 0.5, 1.0, 1.0, 0.95])
    found = coverage(values, np.array([1, 4, 6]), (0.0, 0.1, 0.5, 1.0))
    assert found["all"] == [2, 2, 1, 2]
    assert found["selected"] == [1, 0, 1, 1]
    assert found["coverage"] == [0.5, 0.0, 1.0, 0.5]


def test_histograms_of_a_source_count_its_own_rollouts():
    # BIS is (p (1 - p) + .05) R: 1 of 2 positive at R = 1/2 gives .15, all perfect .05.
    rollouts = Rollouts(
        np.array([8, 0, 16, 16, 0, 16]),
        np.full(6, 16),
        np.array([0, 2, 4, 6]),
        np.array([1, 0, 1]),
        ("easy", "mixed"),
    )
    found = per_source(rollouts)
    assert found["easy"]["mean_mc"] == 1
    assert found["easy"]["BIS"] == [1, 0, 0, 0, 0, 0, 0]
    assert found["easy"]["R"] == [0] * 10 + [1]
    # R = 1/2 and R = 1: (.25 + .05) R is .15, the end of its bin, and .3, the top.
    assert found["mixed"]["BIS"] == [0, 0, 1, 0, 0, 0, 1]
    assert found["mixed"]["mixture"] == [0, 0, 0, 0, 0, 2]
