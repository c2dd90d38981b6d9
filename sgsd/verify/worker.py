"""The worker's side: `python -m sgsd.verify.worker NAME TIMEOUT_S`. JSON lines in on stdin, verdicts out on stdout.

It imports neither torch nor transformers. While an item is being verified an alarm of the operating system runs, a
little longer than the parent waits: should the parent be killed meanwhile, an endless computation ends with it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from sgsd.errors import VerifierError
from sgsd.records import Problem, Verdict

ORPHAN_GRACE_S = 5.0


def build(name: str) -> Callable[[dict[str, Any]], Verdict]:
    """The function from a request to its verdict. Raises VerifierError when `name` cannot be loaded."""
    if name == "math":
        from sgsd.verify import math

        math.warm_up()
        return lambda request: math.compare(request["answer"], request["reference"])

    from sgsd.verify import function

    user_function = function.load_function(name)
    return lambda request: function.verdict_of(
        user_function, name, request["completion"], Problem(**request["problem"])
    )


def main() -> None:
    name, timeout_s = sys.argv[1], float(sys.argv[2])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        # A scheduler tells every process of a job to end; the trainer still needs verdicts. Not SIG_IGN, which programs
        # that a user's function starts would inherit.
        signal.signal(number, lambda *_: None)
    # Replies get a descriptor of their own; what a user's function prints goes to stderr and cannot break the protocol.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        verify = build(name)
    except VerifierError as error:
        reply({"error": " ".join(str(error).split())})
        return
    reply({"ready": True})
    for line in sys.stdin:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the default action ends the process, whatever holds the GIL
        signal.setitimer(signal.ITIMER_REAL, timeout_s + ORPHAN_GRACE_S)
        try:
            message = asdict(verify(json.loads(line)))
        except VerifierError as error:
            message = {"error": " ".join(str(error).split())}
        signal.setitimer(signal.ITIMER_REAL, 0)
        reply(message)


if __name__ == "__main__":
    main()
