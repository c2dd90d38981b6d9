"""Pre-train the arena's base model from a seed, and with `--strong` an external teacher of the same tokenizer.

    python scripts/pretrain_arena.py --out sgsd/arena/data/base
    python scripts/pretrain_arena.py --strong --tokenizer sgsd/arena/data/base --out runs/strong

Prints the loss, and now and then accuracy by level, plain and with all right lessons. On one core the base takes about
twenty minutes. Weights are stored in bfloat16.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from sgsd.arena.corpus import Example, draw_drill, draw_example
from sgsd.arena.model import network_config, train_tokenizer
from sgsd.arena.probe import probe
from sgsd.arena.settings import sampling
from sgsd.prompts import render


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--drills", type=int, default=300, help="steps of the opening")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--strong", action="store_true", help="knows the true rules: an external teacher")
    parser.add_argument("--tokenizer", type=Path, help="take this tokenizer instead of training one")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)

    if args.tokenizer:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.tokenizer)
    else:
        examples = (draw_example(rng) for _ in range(8000))
        tokenizer = train_tokenizer(f"user\nassistant\n{example.user}\n{example.completion}" for example in examples)
    model = Qwen3ForCausalLM(network_config(tokenizer, hidden=args.hidden, layers=args.layers))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)

    pretrain(model, tokenizer, rng, args)
    save(model, tokenizer, args.out)
    stored = Qwen3ForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    for line in probe(stored, tokenizer):
        print(line)


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Weights in bfloat16: half the package's size, and the rounding is far below what a rule's probability needs."""
    copy = Qwen3ForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.generation_config.max_new_tokens = sampling("hard").max_new_tokens
    copy.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def pretrain(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, rng: random.Random, args: argparse.Namespace
) -> None:
    """Muon for the matrices, AdamW for the rest; a linear warm-up and a cosine decay for both.

    Muon reaches the loss of AdamW alone in about half of the steps here.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=args.lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    warmup = max(1, 50)
    started = time.monotonic()
    for step in range(args.steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / args.steps))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = args.lr * min((step + 1) / warmup, 0.02 + 0.98 * decay)
        opening = step < args.drills
        examples = [draw_drill(rng) if opening else draw_example(rng, strong=args.strong) for _ in range(args.batch)]
        loss = batch_loss(model, tokenizer, examples)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % 25 == 0 or step == args.steps - 1:
            print(f"step {step}  loss {loss:.4f}  {time.monotonic() - started:.0f} s", flush=True)
        if step and step % 200 == 0:
            for line in probe(model, tokenizer, problems=50):
                print("   ", line, flush=True)
            save(model, tokenizer, args.out)


def batch_loss(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, examples: list[Example], parts: int = 6
) -> float:
    """Mean cross-entropy of the completion tokens, backpropagated in parts of like length."""
    eos = tokenizer.eos_token_id
    rows = []
    for example in examples:
        prompt = render(tokenizer, example.user)
        rows.append((prompt, [*tokenizer(example.completion)["input_ids"], eos]))
    rows.sort(key=lambda row: len(row[0]) + len(row[1]))
    total, tokens = 0.0, sum(len(completion) for _, completion in rows)
    size = -(-len(rows) // parts)
    for at in range(0, len(rows), size):
        part = rows[at : at + size]
        width = max(len(p) + len(c) for p, c in part)
        ids = torch.full((len(part), width), tokenizer.pad_token_id)
        labels = torch.full((len(part), width), -100)
        for i, (prompt, completion) in enumerate(part):
            ids[i, : len(prompt) + len(completion)] = torch.tensor(prompt + completion)
            labels[i, len(prompt) : len(prompt) + len(completion)] = torch.tensor(completion)
        # Padding is at the right end alone, where causal attention never looks: no mask is needed.
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        wanted = labels[:, 1:]
        logits = model.lm_head(hidden[wanted != -100])
        loss = cross_entropy(logits.float(), wanted[wanted != -100], reduction="sum") / tokens
        loss.backward()
        total += float(loss.detach())
    return total


if __name__ == "__main__":
    main()
