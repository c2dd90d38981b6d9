"""What vLLM makes of a model's folder. Runs with the interpreter of `.venv-vllm`, for test_vllm.py.

    python engine.py REQUEST ANSWER

REQUEST is JSON: {"folder", "prompts": [[id]], "sequences": [[id]], "max_new_tokens"}. ANSWER gets
{"completions": [[id]], "logprobs": [[float]]}: each prompt's greedy completion, and the log-probs, in nats, of a
sequence's tokens from its second on. A file, because vLLM writes to stdout.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(request_file: str, answer_file: str) -> None:
    from vllm import LLM, SamplingParams, TokensPrompt

    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    engine = LLM(
        model=request["folder"],
        dtype="float32",
        max_model_len=512,
        enforce_eager=True,
        gpu_memory_utilization=0.3,  # on a CPU a share of the main memory, where the default does not fit
        seed=0,
    )

    def run(rows: list[list[int]], **options: int) -> list:
        settings = SamplingParams(temperature=0.0, **options)
        return engine.generate([TokensPrompt(prompt_token_ids=row) for row in rows], settings, use_tqdm=False)

    drawn = run(request["prompts"], max_tokens=request["max_new_tokens"])
    scored = run(request["sequences"], max_tokens=1, prompt_logprobs=0)
    answer = {
        "completions": [list(row.outputs[0].token_ids) for row in drawn],
        "logprobs": [
            [at[token].logprob for token, at in list(zip(row.prompt_token_ids, row.prompt_logprobs, strict=True))[1:]]
            for row in scored
        ],
    }
    Path(answer_file).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
