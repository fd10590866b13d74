"""How do I hand a subset to the trainer that I have?

python -m experiments.examples.hand_a_subset_to_another_trainer [CORPUS]
"""

import json
import sys
from pathlib import Path

import mprm_jax as mprm

path = sys.argv[1] if sys.argv[1:] else "example-corpus"
if not sys.argv[1:]:
    mprm.simulate_corpus(path, scale=0.002)
subset = mprm.select(mprm.read_corpus(path), "bis", keep_ratio=0.1)

# The subset is the same in each; a manifest that mprm verify checks lies beside it.
# prm: InternVL's trainers, started with the .meta.json beside it. trl: prompt,
# completions, labels, which TRL up to 1.13 reads as its stepwise type, and axolotl.
for form in ("prm", "trl", "raw"):
    output = Path(f"example-{form}.jsonl")
    mprm.write_subset(subset, output, form)
    first = json.loads(output.read_text().splitlines()[0])
    print(f"{output}: {', '.join(list(first)[:4])}")
print("example-prm.meta.json: what InternVL's trainers are started with")

# Soft labels K/N instead of 1[K > 0], where a format holds them.
mprm.write_subset(subset, "example-soft.jsonl", "prm", labels="soft")

# Another trainer: read the raw format back, and make of it what that one wants.
with open("example-raw.jsonl") as lines:
    record = json.loads(next(lines))
steps = [(step["step"], step["num_mc_correct"]) for step in record["steps_with_score"]]
print(f"{len(steps)} steps, K of each: {[k for _, k in steps]}")
