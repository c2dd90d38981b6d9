"""`sgsd diagnose`: is this teacher worth distilling from, before any training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sgsd.cli.common import counted, emit, from_options, offline_without_network, progress, waiting
from sgsd.cli.drawing import judge_from_options, with_length

if TYPE_CHECKING:
    from sgsd.pairing import Pairing

READING = """\
How to read it. The thresholds are those of arXiv 2604.13016, observed there in runs on mathematical problems; on other
students and data they are hypotheses, and a sample this small moves within its intervals.
  mass on the shared tokens  97-99 % in runs that worked
  advantage                  tends to 0 as the student learns; 0 from the start says that there is nothing to learn
  by position                the teacher's lead fades with the length of a prefix that it would not have written
  accuracy                   a teacher of the same family that is not ahead may have nothing new to give"""


def diagnose_command(
    student: Annotated[str, typer.Argument(help="A folder (weights or an adapter), a hub name, or `arena`.")],
    teacher: Annotated[str, typer.Argument(help="A model of the same tokenizer.")],
    data: Annotated[str, typer.Option(help="Problems: a JSONL or parquet file, a hub name, or arena:LEVEL.")],
    split: Annotated[str, typer.Option(help="Which split of the problems.")] = "train",
    limit: Annotated[int, typer.Option(min=2, help="Problems of the sample.")] = 64,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Likeliest tokens of each side.")] = 16,
    temperature: Annotated[float, typer.Option(help="Of the rollouts of both.")] = 1.0,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Default: what the model's generation settings say, else 1024.")
    ] = None,
    max_prompt_tokens: Annotated[int, typer.Option(min=1)] = 2048,
    batch_size: Annotated[int, typer.Option(help="Prompts drawn at once.")] = 64,
    thinking: Annotated[bool, typer.Option(help="Let models think that can.")] = False,
    verifier: Annotated[str, typer.Option(help="math, exact, choice or your own module:function.")] = "math",
    timeout: Annotated[float, typer.Option(help="Seconds a verification; more is unverifiable.")] = 5.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Compare a student with a teacher on the student's own rollouts: overlap, mass, advantage, entropy, accuracy.

    Example: sgsd diagnose arena runs/teacher/student --data arena:easy
    """
    from sgsd.config import DataConfig, ModelConfig, SamplingConfig

    sampling = from_options(
        SamplingConfig,
        {"temperature": temperature, "batch_size": batch_size, "max_prompt_tokens": max_prompt_tokens}
        | {"thinking": thinking},
        {},
    )
    judge = judge_from_options(verifier, timeout, "grade")
    offline_without_network(data, student, teacher)

    from sgsd.cli.sources import load_source

    problems = load_source(DataConfig(source=data, split=split, limit=limit))
    with waiting("loading the models"):
        from sgsd.models import default_dtype
        from sgsd.pairing import diagnose, open_pair

        pair = open_pair(*(ModelConfig(name_or_path=name, dtype=default_dtype()) for name in (student, teacher)))
    with progress("rollouts of both", total=2 * len(problems)) as advance:
        found = diagnose(
            pair,
            problems,
            judge,
            with_length(sampling, max_new_tokens, pair.suggested_tokens),
            k=k,
            seed=seed,
            on_progress=advance,
        )
    emit(_payload(found), as_json, lambda: _print(found, k))


def _payload(found: Pairing) -> dict[str, Any]:
    numbers = {name: {"value": e.value, "ci": [e.low, e.high]} for name, e in found.agreement.items()}
    return numbers | {
        "accuracy": {"student": found.student.accuracy, "teacher": found.teacher.accuracy},
        "accuracy_ci": {"student": list(found.student.ci), "teacher": list(found.teacher.ci)},
        "lead": {"value": found.lead.value, "ci": [found.lead.low, found.lead.high]},
        "problems": found.student.problems,
        "tokens": found.tokens,
    }


def _print(found: Pairing, k: int) -> None:
    sample = f"{counted(found.student.problems, 'problem')}, {found.tokens:,} tokens of the student"
    typer.echo(f"{sample}, k = {k}; 95 % intervals")
    words = {
        "agreement/overlap": "overlap of the likeliest tokens",
        "agreement/student_mass": "student's mass on the shared tokens",
        "agreement/teacher_mass": "teacher's mass on the shared tokens",
        "agreement/overlap_advantage": "overlap advantage, nats",
        "agreement/entropy_gap": "entropy gap, nats",
    }
    for name, text in words.items():
        e = found.agreement[name]
        typer.echo(f"  {text:<38} {e.value:8.3f}  [{e.low:.3f}, {e.high:.3f}]")
    by_position = [f"{e.value:.3f}" for name, e in found.agreement.items() if name.startswith("agreement/advantage_")]
    typer.echo(f"  {'advantage by eighth of the limit':<38} {' '.join(by_position)}")
    lead = found.lead
    typer.echo(
        f"  {'accuracy, student and teacher':<38} {found.student.accuracy:8.3f} {found.teacher.accuracy:.3f}; "
        f"lead {lead.value:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]"
    )
    typer.echo(READING)
