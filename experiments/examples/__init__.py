"""Small scripts, each the answer to the question it is named after.

    python -m experiments.examples.which_of_my_rollouts [CORPUS]

They lie in the wheel, need no network, write into the current folder, and simulate what
they are not given.
"""
