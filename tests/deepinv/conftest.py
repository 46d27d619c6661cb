"""With the real DeepInverse: `make test-deepinv`; passed over where it is not installed."""

import sys
from importlib.metadata import packages_distributions
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
collect_ignore_glob = [] if "deepinv" in packages_distributions() else ["test_*.py"]
