"""`import theory` and `import sim` load nothing; every public name is there."""

import subprocess
import sys

import pytest

import sim
import theory


@pytest.mark.parametrize("package", [theory, sim])
def test_every_public_name_is_that_of_its_module(package):
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        value = getattr(package, name)
        module = f"{package.__name__}.{package._HOMES[name]}"
        # What a module only passes on would have its home elsewhere.
        assert getattr(value, "__module__", module) == module
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


def test_simulations_are_there_after_a_plain_import():
    code = (
        "import sys, theory; assert 'theory.simulate' not in sys.modules; "
        "assert 'simulate' in dir(theory); "
        "z = theory.simulate.check('noisy_positive_prob', 0.3, 0.1, 0.05).z; "
        "sys.exit(not abs(z) < 4.5)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_a_package_loads_none_of_its_libraries():
    code = (
        "import sys, theory, sim; from theory import paper, intervals, agreement; "
        "theory.holm; theory.f1_at; theory.bis; theory.select; theory.summarise; "
        "heavy = {'scipy', 'jax', 'flax', 'matplotlib'} & set(sys.modules); "
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code = "import sys, theory, sim; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
