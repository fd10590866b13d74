"""A sweep on the devices that its environment names; run by test_students.py."""

import json
import sys

import jax
import numpy as np

from sim.students.train import seed_sharding, train
from tests.sim.test_students import STUDENTS, problem


def main() -> None:
    """Write the parameters to the file that is named."""
    sweep = problem(seeds=6)
    params = {k: np.asarray(v) for k, v in train(STUDENTS["logistic"], sweep).items()}
    np.savez(sys.argv[1], allow_pickle=False, **params)
    used = len(seed_sharding(6).device_set)
    print(json.dumps({"devices": len(jax.devices()), "used": used}))


if __name__ == "__main__":
    main()
