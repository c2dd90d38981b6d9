"""Measure the trainer's step beside the obvious way to write it and the limit of what any way could reach.

    python scripts/bench_step.py                                   # 35 M parameters, V = 32,000, 256 tokens, K = 8
    python scripts/bench_step.py --vocab 151936 --completion 128 --json
    python scripts/bench_step.py --hidden 2048 --intermediate 6144 --layers 28 --heads 16 --kv-heads 8 --head-dim 128 \\
        --vocab 151936 --completion 1024 --dtype bfloat16 --lora 64 --device cuda      # the shape of Qwen3-1.7B

A Qwen3 of any shape with random weights, random prompts and completions. A step is all teachers' passes and the
student's forward and backward: the functions that the trainer calls (`GatedObjective.score_teachers` and `.loss`),
without rollouts, verifier, bank and optimiser, which cost the same everywhere. Beside it, from plain_step.py:

* `restated`: the student's row once for each teacher, all logits, full log-softmax and entropy.
* `floor`: the bare passes over the same unpadded tokens, student forward and backward, K teacher forwards in inference
  mode, the head at completion positions, torch's own cross entropy. Of the sensible ways (teacher rows in one pass or
  in turn; the head at once or in chunks) the fastest at this shape is taken; it is named.

The three take turns; `*_s` are medians in seconds, `speedup` = restated / trainer, `over_floor` = trainer / floor.

`peak_mb` is the most memory that one step takes on top of the loaded model, gradients included, each in a process of
its own whose first step it is, in units of 10^6 bytes: on a CPU the highest resident size during the step less the
resident size before it (so buffers of the libraries count, and so does what the allocator keeps), on CUDA torch's
`max_memory_allocated` less `memory_allocated`. `finetune` is plain supervised training on the same completion with the
same chunked head; optimiser state is in none.

Before anything is timed, loss and gradients of the trainer's step and of the restatement are held against each other:
in float64 at a small shape (1e-8, relative to the largest), and at the shape asked for in its own dtype (`agree`).

On CUDA also `tokens_per_s`, tokens that go through the model in a trainer's step, and `mfu`, model FLOPs (6 N a
student token, 4 N with a frozen base, 2 N a teacher token, attention counted) over the peak of the device.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import plain_step
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from sgsd.config import ObjectiveConfig, TeacherConfig
from sgsd.methods import GatedObjective
from sgsd.methods.base import Window
from sgsd.records import Completion, Problem, Rollout, TeacherPrompt, Verdict
from sgsd.teachers import Example
from sgsd.trainer.distillation import dropout_off

BARS = {"over_floor": 1.10, "finetune": 1.2, "restated": 0.4}
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.0}
"""Of dense bfloat16 products, from the makers' data sheets; `--peak-tflops` for others."""
EXACT = 1e-8


def main() -> None:
    args = parse()
    torch.manual_seed(0)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.peak:
        print(json.dumps(peak_mb(args)))
        return
    exact = disagreement(shrunk(args))
    if exact > EXACT:
        sys.exit(f"trainer and restatement disagree by {exact:.1e} in float64, above {EXACT}")
    agree = {"float64": exact} | ({} if args.no_restated else {args.dtype: disagreement(args)})
    result = {"shape": shape(args), "agree": agree, **timings(args)}
    sides = ("trainer", "finetune") if args.no_restated else ("trainer", "restated", "finetune")
    result["peak_mb"] = {what: in_own_process(what) for what in sides}
    print(json.dumps(result, indent=2) if args.json else report(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, what in (
        ("vocab", 32_000, "size of the vocabulary"),
        ("hidden", 512, "width"),
        ("intermediate", 0, "width within the MLP (default: 3 times --hidden)"),
        ("layers", 6, "layers"),
        ("heads", 8, "attention heads"),
        ("kv-heads", 4, "key-value heads"),
        ("head-dim", 64, "width of a head"),
        ("completion", 256, "completion tokens"),
        ("prompt", 64, "tokens of the student's prompt"),
        ("teacher-prompt", 160, "tokens of the longest teacher prompt"),
        ("spread", 0, "tokens by which the shortest teacher prompt is shorter"),
        ("teachers", 8, "teachers an example"),
        ("batch", 1, "examples"),
        ("lora", 0, "rank of an adapter; 0 trains all weights"),
        ("rounds", 5, "turns of each side"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=what)
    parser.add_argument("--token-budget", type=int, help="teacher.token_budget of the trainer")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice without it")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float64"))
    parser.add_argument("--attention", default="sdpa", choices=("eager", "sdpa", "flash_attention_2"))
    parser.add_argument("--cpu-time", action="store_true", help="processor seconds, on a machine with other work")
    parser.add_argument("--no-restated", action="store_true", help="without it, where it does not fit in memory")
    parser.add_argument("--untied", action="store_true", help="a head of its own instead of the embedding's weights")
    parser.add_argument("--peak-tflops", type=float, help="of the device, for mfu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", choices=("trainer", "restated", "finetune"), help=argparse.SUPPRESS)
    return parser.parse_args()


# ---------------------------------------------------------------------------------------------------- model and example


def make_model(args: argparse.Namespace) -> Any:
    """As `load_student` gives it: an adapter over a base of any dtype, or float32 weights (float64 stays)."""
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        intermediate_size=args.intermediate or 3 * args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        head_dim=args.head_dim,
        tie_word_embeddings=not args.untied,
        max_position_embeddings=8 * (args.teacher_prompt + args.completion),
        initializer_range=1.1 / args.hidden**0.5,  # logits of order 1, so that teachers disagree with the student
        attn_implementation=args.attention,
    )
    dtype = getattr(torch, args.dtype)
    with torch.device(args.device):
        model: Any = Qwen3ForCausalLM(config).to(torch.float32 if dtype == torch.bfloat16 and not args.lora else dtype)
    if dtype == torch.float64:
        _exact_norms(model)
    if args.lora:
        from peft import LoraConfig, get_peft_model

        from sgsd.config import LoraConfig as Defaults

        targets = list(Defaults().target_modules)
        model = get_peft_model(model, LoraConfig(r=args.lora, lora_alpha=2 * args.lora, target_modules=targets))
    dropout_off(model)
    return model


def _exact_norms(model: torch.nn.Module) -> None:
    """Qwen3's own norms compute in float32 whatever they are given, and so blur what float64 could tell apart."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Qwen3RMSNorm):
                norm = torch.nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon, dtype=child.weight.dtype)
                setattr(module, name, norm)


def make_examples(args: argparse.Namespace) -> list[Example]:
    rng = random.Random(2)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(1, args.vocab) for _ in range(count))

    examples = []
    for b in range(args.batch):
        completion = Completion(ids(args.completion), "", truncated=False)
        verdict = Verdict("wrong" if b % 2 else "correct")
        rollout = Rollout(Problem(f"p{b}", "", ""), ids(args.prompt), completion, verdict)
        last = max(1, args.teachers - 1)
        lengths = [args.teacher_prompt - round(args.spread * k / last) for k in range(args.teachers)]
        teachers = tuple(TeacherPrompt(ids(length), 1 / args.teachers) for length in lengths)
        examples.append(Example(rollout, teachers))
    return examples


def make_objective(args: argparse.Namespace) -> GatedObjective:
    # Its words are told apart and nothing else, so that every token counts.
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(args.vocab)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    return GatedObjective(ObjectiveConfig(), tokenizer, TeacherConfig(token_budget=args.token_budget))


Step = Callable[[], Any]


def make_steps(args: argparse.Namespace) -> tuple[Any, dict[str, Step], Callable[[plain_step.Way], Step]]:
    """The model; trainer's, restated and fine-tuning step by name; the bare step in a given way."""
    model, examples, objective = make_model(args), make_examples(args), make_objective(args)
    mixed = args.dtype == "bfloat16"

    def autocast() -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(args.device.partition(":")[0], torch.bfloat16) if mixed else contextlib.nullcontext()

    def trainer() -> torch.Tensor:
        with autocast():
            scored = objective.score_teachers(model, examples)
            loss = objective.loss(model, scored, Window(len(scored), sum(map(len, scored)))).loss
        loss.backward()
        return loss.detach()

    def within(step: Callable[..., Any], *rest: Any) -> Step:
        def run() -> Any:
            with autocast():
                return step(model, examples, *rest)

        return run

    steps: dict[str, Step] = {
        "trainer": trainer,
        "restated": within(plain_step.restated, objective.settings),
        "finetune": within(plain_step.finetune),
    }
    return model, steps, lambda way: within(plain_step.bare, way)


# -------------------------------------------------------------------------------------------------------------- measure


def shrunk(args: argparse.Namespace) -> argparse.Namespace:
    """A small shape of the same kind in float64, where equality can be exact."""
    small = {"vocab": 300, "hidden": 32, "intermediate": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8}
    small |= {"completion": 24, "prompt": 7, "teacher_prompt": 15, "spread": 6, "batch": 2, "lora": min(args.lora, 4)}
    return argparse.Namespace(**vars(args) | small | {"dtype": "float64", "attention": "sdpa", "device": "cpu"})


def disagreement(args: argparse.Namespace) -> float:
    """The largest difference between trainer and restatement: of the loss, and of gradients relative to the largest."""
    model, steps, _ = make_steps(args)
    found: list[tuple[float, dict[str, torch.Tensor]]] = []
    for name in ("trainer", "restated"):
        model.zero_grad(set_to_none=True)
        loss = steps[name]().item()
        found.append((loss, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (mine, my_gradients), (theirs, their_gradients) = found
    largest = max(gradient.abs().max().item() for gradient in their_gradients.values())
    if my_gradients.keys() != their_gradients.keys() or not largest > 0:
        sys.exit("trainer and restatement have gradients of other weights, or none at all")
    gaps = [(my_gradients[n] - gradient).abs().max().item() / largest for n, gradient in their_gradients.items()]
    return max(abs(mine - theirs) / abs(theirs), *gaps)


def timings(args: argparse.Namespace) -> dict[str, Any]:
    model, steps, bare = make_steps(args)
    clock = time.process_time if args.cpu_time else time.perf_counter

    def seconds(step: Step) -> float:
        model.zero_grad(set_to_none=True)
        gc.collect()
        synchronize(args)
        started = clock()
        step()
        synchronize(args)
        return clock() - started

    def fastest(way: plain_step.Way) -> float:
        return min(seconds(bare(way)) for _ in range(3))

    way = min(plain_step.WAYS, key=fastest)
    sides = {"trainer": steps["trainer"], "restated": steps["restated"], "floor": bare(way)}
    if args.no_restated:
        del sides["restated"]
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(args.rounds + 1):
        for name, step in sides.items():
            spent = seconds(step)
            if turn:  # the first warms up
                taken[name].append(spent)
    median = {name: statistics.median(values) for name, values in taken.items()}
    result: dict[str, Any] = {f"{name}_s": value for name, value in median.items()}
    if not args.no_restated:
        result["speedup"] = median["restated"] / median["trainer"]
    result["over_floor"] = median["trainer"] / median["floor"]
    result["floor_way"] = str(way)
    if args.device.startswith("cuda"):
        result |= device_use(args, model, median["trainer"])
    return result


def synchronize(args: argparse.Namespace) -> None:
    if args.device.startswith("cuda"):
        torch.cuda.synchronize(args.device)


def device_use(args: argparse.Namespace, model: Any, step_s: float) -> dict[str, Any]:
    examples = make_examples(args)
    students = [len(e.rollout.prompt_ids) + len(e) for e in examples]
    teachers = [len(t.prompt_ids) + len(e) for e in examples for t in e.teachers]
    inner = plain_step.causal_model(model)
    embeddings = args.vocab * args.hidden
    body = sum(p.numel() for p in inner.parameters()) - embeddings * (2 if args.untied else 1)
    heads = args.completion * embeddings
    attention = 2 * args.layers * args.heads * args.head_dim  # a causal row of L tokens: 2 products of L^2 / 2 pairs

    def forward(rows: Sequence[int]) -> float:
        return sum(2.0 * (body * length + heads) + attention * length**2 for length in rows)

    flops = forward(teachers) + (2 if args.lora else 3) * forward(students)
    name = torch.cuda.get_device_name(args.device)
    peak = args.peak_tflops or next((value for key, value in PEAK_TFLOPS.items() if key in name), None)
    return {
        "device": name,
        "tokens_per_s": (sum(students) + sum(teachers)) / step_s,
        "model_tflops_per_s": flops / step_s / 1e12,
        "mfu": flops / step_s / (peak * 1e12) if peak else None,
    }


def in_own_process(what: str) -> float:
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--peak", what]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])  # a library may have printed something before


def peak_mb(args: argparse.Namespace) -> float:
    _, steps, _ = make_steps(args)
    step = steps[args.peak]
    gc.collect()
    if args.device.startswith("cuda"):
        before = torch.cuda.memory_allocated(args.device)
        torch.cuda.reset_peak_memory_stats(args.device)
        step()
        return (torch.cuda.max_memory_allocated(args.device) - before) / 1e6
    clear = Path("/proc/self/clear_refs")
    clear.write_text("5", encoding="ascii")  # the highest resident size starts anew
    before = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    step()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return (int(status["VmHWM"].split()[0]) * 1024 - before) / 1e6


# --------------------------------------------------------------------------------------------------------------- report


def shape(args: argparse.Namespace) -> dict[str, Any]:
    names = ("vocab", "hidden", "layers", "prompt", "teacher_prompt", "spread", "completion", "teachers", "batch")
    size = sum(p.numel() for p in make_model(args).parameters())
    rest = {"dtype": args.dtype, "lora": args.lora, "attention": args.attention, "device": args.device}
    return {"parameters": size, **{name: getattr(args, name) for name in names}, **rest}


def report(result: dict[str, Any]) -> str:
    peak, of = result["peak_mb"], result["shape"]
    lines = [
        f"{of['parameters'] / 1e6:.0f} M parameters, V = {of['vocab']:,}, {of['teachers']} teachers, "
        f"{of['completion']} completion tokens, {of['dtype']}, {of['device']}",
        "loss and gradients of trainer and restatement agree to "
        + ", ".join(f"{gap:.0e} in {dtype}" for dtype, gap in result["agree"].items()),
        f"the limit: {result['floor_way']}",
        "",
        "| | seconds | to the trainer | peak MB | to the trainer | wanted |",
        "|---|---:|---:|---:|---:|---|",
        f"| trainer | {result['trainer_s']:.2f} | 1 | {peak['trainer']:,.0f} | 1 | |",
        f"| limit | {result['floor_s']:.2f} | {1 / result['over_floor']:.2f} | | | "
        f"time at least {1 / BARS['over_floor']:.2f} |",
        f"| fine-tuning | | | {peak['finetune']:,.0f} | {peak['finetune'] / peak['trainer']:.2f} | "
        f"memory at least {1 / BARS['finetune']:.2f} |",
    ]
    if "restated_s" in result:
        lines.append(
            f"| restated | {result['restated_s']:.2f} | {result['speedup']:.2f} | {peak['restated']:,.0f} | "
            f"{peak['restated'] / peak['trainer']:.2f} | memory at least {1 / BARS['restated']:.1f} |"
        )
    lines += [f"{name}: {result[name]}" for name in ("device", "tokens_per_s", "mfu") if name in result]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
