"""How good are my PRM's step scores? Scores of any model, in a file.

python -m experiments.examples.judge_my_prms_scores [PREDICTIONS]
"""

import json
import sys
from pathlib import Path

import numpy as np

import mprm_jax as mprm

path = Path(sys.argv[1] if sys.argv[1:] else "example-predictions.jsonl")
if not sys.argv[1:]:
    # One line for each solution: labels are 1 right, -1 wrong, 0 neutral.
    rng = np.random.default_rng(0)
    lines = []
    for number in range(400):
        right = rng.random(rng.integers(3, 9)) < 0.7
        scores = 1 / (1 + np.exp(-rng.normal(2 * right - 0.5)))
        lines.append(
            {
                "id": f"solution {number}",
                "data_source": ("charts", "plans")[number % 2],
                "labels_per_step": [1 if of else -1 for of in right.tolist()],
                "prm_scores": scores.tolist(),
            }
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

found = mprm.evaluate_scores(path, replicates=200)
low, high = found.intervals["micro_f1"]
print(f"{found.steps:,} steps of {found.rollouts} solutions, {found.steps_wrong} wrong")
print(f"micro-F1 {found.micro_f1:.3f} ({low:.3f} to {high:.3f}), mean of the sources'")
print("macro-F1 weighted by their steps, at a threshold chosen on solutions left out:")
for source, macro in found.per_source.items():
    print(f"  {source:10} {macro:.3f}")
print(f"AUROC {found.auroc:.3f}; among steps of one position "
      f"{found.within_position_auroc:.3f};")  # fmt: skip
print(f"  what the position alone would reach: {found.position_auroc:.3f}")
print(f"calibration error {found.ece:.3f}")
