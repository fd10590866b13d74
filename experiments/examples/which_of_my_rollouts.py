"""Which of my rollouts should I train on, and why these?

python -m experiments.examples.which_of_my_rollouts [CORPUS]
"""

import sys

import mprm_jax as mprm

path = sys.argv[1] if sys.argv[1:] else "example-corpus"
if not sys.argv[1:]:
    mprm.simulate_corpus(path, scale=0.005)
corpus = mprm.read_corpus(path)
print(f"{corpus.rollouts.n_rollouts:,} rollouts, of which each rule keeps a tenth:\n")

print("rule      mixed  wrong steps (K = 0)  chosen by ties")
for rule in ("random", "low-mc", "mixed", "bis"):
    subset = mprm.select(corpus, rule, keep_ratio=0.1)
    of, tied = subset.summary, subset.evidence.tied_share
    print(f"{rule:8} {of.mixed_share:6.1%} {of.error_step_ratio:20.1%} {tied:15.1%}")

# The rollouts that BIS ranks first: where they are, and K of N of their steps.
scores, counts = mprm.score(corpus, "bis"), corpus.rollouts
print("\nBIS     file:line")
for i in scores.argsort()[::-1][:3]:
    steps = slice(counts.offsets[i], counts.offsets[i + 1])
    k_of_n = zip(counts.successes[steps], counts.trials[steps], strict=True)
    shown = " ".join(f"{k}/{n}" for k, n in k_of_n)
    print(f"{scores[i]:.4f}  {corpus.corpus.where(corpus.row[i])}  {shown}")

subset = mprm.select(corpus, "bis", keep_ratio=0.1)
manifest = mprm.write_subset(subset, "example-subset.jsonl")
print(f"\nwrote {manifest['output']['rollouts']:,} rollouts: example-subset.jsonl")
print("check it at any time: mprm verify example-subset.jsonl")
