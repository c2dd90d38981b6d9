"""For torchrun: `two_ranks.py FOLDER` trains on the bank in FOLDER, all weights and then an adapter.

What came of it goes to FOLDER/full-two.json and FOLDER/lora-two.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.sgsd.training import three_steps

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for kind in ("full", "lora"):
        about = three_steps(folder, kind, ranks=2)
        dist.barrier()
        if os.environ["RANK"] == "0":
            (folder / f"{kind}-two.json").write_text(json.dumps(about), encoding="utf-8")
    dist.destroy_process_group()
