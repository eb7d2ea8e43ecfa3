import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))  # where each of them finds its neighbours, as a program does


from tests.cpg.conftest import config, daemon, make_daemon  # noqa: E402, F401 - fixtures
