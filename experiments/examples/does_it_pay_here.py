"""Does selecting by BIS pay on my corpus?

python -m experiments.examples.does_it_pay_here [CORPUS]

Counts alone rarely tell: the command says what they do tell, and how often. Its
options --judged (a hundred or more rollouts whose steps somebody judged) and --model (a
trial on your own backbone) tell more.
"""

import subprocess
import sys

import mprm_jax as mprm

path = sys.argv[1] if sys.argv[1:] else "example-corpus"
if not sys.argv[1:]:
    mprm.simulate_corpus(path, scale=0.01)

# What you type: mprm advise CORPUS --batch 8. Exit status 1: the corpus is unlike all
# that was simulated, so that nothing is predicted.
command = [sys.executable, "-m", "mprm_jax", "advise", path, "--batch", "8"]
done = subprocess.run(command, capture_output=True, text=True)
print(done.stdout + done.stderr)
