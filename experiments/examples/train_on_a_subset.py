"""How do I train on a subset?

python -m experiments.examples.train_on_a_subset

With a small visual world and the tiny model, in place of your corpus and your backbone:
mprm.train_model(subset, "runs/model", model="FOLDER", images="ROOT").
"""

import mprm_jax as mprm

world = mprm.simulate_scenes("example-world", rollouts=200, judged=60, problems=5)
corpus = mprm.read_corpus(world)
benchmark = world / "benchmark" / "test.jsonl"

subset = mprm.select(corpus, "bis", keep_ratio=0.1)
trained = mprm.train_model(subset, "example-run", batch_size=10)
print(f"trained on {len(subset.usable_rows)} rollouts; the model lies in example-run/")

for name, model in (("as it is", mprm.load_model("tiny")), ("trained", trained)):
    found = mprm.evaluate_scores(mprm.predict(model, benchmark), replicates=100)
    low, high = found.intervals["auroc"]
    print(f"{name:8}  AUROC {found.auroc:.3f} ({low:.3f} to {high:.3f})")
print("Two updates with one seed show how it is done, and no more: mprm demo, and")
print("mprm run selection with your own corpus and benchmark, compare rules by seeds.")
