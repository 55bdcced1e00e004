"""The bench is no package: its folder is put behind everything else that can be imported."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "bench"))
