"""The console script. Ctrl-C while the verbs are still being imported is a word, not a traceback."""

from __future__ import annotations

import os


def main() -> None:
    """Import the verbs and run the one that was asked for."""
    try:
        from galore.trainer.machine.agent import watch_agent

        watch_agent()  # before seconds of imports, in which the agent may be gone
        from galore.cli.main import main as run

        run()
    except KeyboardInterrupt:  # once a verb runs it is told there
        os.write(2, b"stopped: interrupted\n")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
