"""For torchrun or accelerate: `worker.py FOLDER NAME=JSON ...` trains once for each NAME, with the options of
`steps.train` in the JSON.

What came of it goes to FOLDER/NAME.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.sgsd.distributed.steps import train

if __name__ == "__main__":
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        import deepspeed

        # Else it compiles an operator for processes of one machine; gloo does the same.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    folder = Path(sys.argv[1])
    for case in sys.argv[2:]:
        name, _, options = case.partition("=")
        about = train(folder, name, **json.loads(options))
        dist.barrier()
        if os.environ["RANK"] == "0":
            (folder / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()
