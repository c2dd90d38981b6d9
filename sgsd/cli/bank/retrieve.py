"""What a problem is given: `retrieve`, and `why`, which also says why other entries are not among it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sgsd.cli.bank import text
from sgsd.cli.bank.app import app
from sgsd.cli.bank.options import BankOption, JsonOption
from sgsd.cli.common import emit, waiting

if TYPE_CHECKING:
    from skillbank.retrieve.explain import Explanation

Mode = Literal["similar", "random"]
Pairing = Literal["rank", "mined", "match"]

ProblemArgument = Annotated[str, typer.Argument(metavar="PROBLEM", help="The text of a problem.")]
PairsOption = Annotated[int, typer.Option(min=1, help="Pairs to retrieve.")]
TemperatureOption = Annotated[float, typer.Option(min=1e-6, help="Of the softmax over a pool's cosines.")]
PairingOption = Annotated[
    Pairing, typer.Option(help="By rank, as the pairs were mined, or each skill with the mistake nearest to it.")
]
DiversityOption = Annotated[
    float, typer.Option(min=0, max=0.999, help="Above 0, pass over entries that resemble those already chosen.")
]
MinCosineOption = Annotated[
    str | None,
    typer.Option(metavar="COSINE|auto", help="Use no entry below it; auto reads it off the bank's own problems."),
]
WhereOption = Annotated[str | None, typer.Option(metavar="QUERY", help='Use only entries that fit: "utility:>0".')]
ProblemIdOption = Annotated[str | None, typer.Option(help="Leave out what rests on this problem alone.")]
OwnOption = Annotated[bool, typer.Option("--own", help="Keep what rests on this very problem alone.")]


@app.command(epilog='Example: sgsd bank retrieve "What is 5 zorp 7 modulo 23?" --bank bank --k 4')
def retrieve(
    problem: ProblemArgument,
    bank: BankOption,
    k: PairsOption = 8,
    temperature: TemperatureOption = 1.0,
    mode: Annotated[Mode, typer.Option(help="By cosine, or uniformly at random.")] = "similar",
    pairing: PairingOption = "rank",
    diversity: DiversityOption = 0.0,
    min_cosine: MinCosineOption = None,
    where: WhereOption = None,
    problem_id: ProblemIdOption = None,
    own: OwnOption = False,
    seed: Annotated[int, typer.Option(min=0, help="Of random retrieval.")] = 0,
    json: JsonOption = False,
) -> None:
    """Show the pairs that would guide the teachers of a problem, with their weights."""
    _check_words(problem)
    with waiting("loading the embedder"):
        from skillbank.retrieve import open_retriever

        retriever = open_retriever(
            bank,
            k=k,
            temperature=temperature,
            mode=mode,
            pairing=pairing,
            diversity=diversity,
            min_cosine=_bound(min_cosine),
            where=where,
            leave_one_problem_out=not own,
            seed=seed,
        )
    with retriever.bank:
        pairs = retriever.retrieve([problem], None if problem_id is None else [problem_id])[0]
    embedder = None if retriever.embedder is None else retriever.embedder.describe()
    payload = {"embedder": embedder, "pairs": [pair.model_dump(mode="json") for pair in pairs]}
    emit(payload, json, lambda: text.retrieved(pairs, embedder))


@app.command(epilog='Example: sgsd bank why "What is 5 zorp 7 modulo 23?" --bank bank --k 4 --others 5')
def why(
    problem: ProblemArgument,
    bank: BankOption,
    k: PairsOption = 8,
    temperature: TemperatureOption = 1.0,
    pairing: PairingOption = "rank",
    diversity: DiversityOption = 0.0,
    min_cosine: MinCosineOption = None,
    where: WhereOption = None,
    problem_id: ProblemIdOption = None,
    own: OwnOption = False,
    others: Annotated[int, typer.Option(min=0, help="Entries of each kind to give a reason for.")] = 5,
    json: JsonOption = False,
) -> None:
    """Show what a problem is given, with cosines and weights, and why the next nearest entries are not used."""
    _check_words(problem)
    with waiting("loading the embedder"):
        from skillbank.retrieve import open_retriever
        from skillbank.retrieve.explain import explain

        retriever = open_retriever(
            bank,
            k=k,
            temperature=temperature,
            pairing=pairing,
            diversity=diversity,
            min_cosine=_bound(min_cosine),
            where=where,
            leave_one_problem_out=not own,
        )
    with retriever.bank:
        explained = explain(retriever, problem, problem_id=problem_id, n=others)
    embedder = None if retriever.embedder is None else retriever.embedder.describe()
    payload = {"embedder": embedder, **explained.model_dump(mode="json")}
    emit(payload, json, lambda: _explained(explained, embedder))


def _check_words(problem: str) -> None:
    if not problem.strip():
        raise typer.BadParameter("the problem has no words", param_hint="PROBLEM")


def _bound(given: str | None) -> float | Literal["auto"] | None:
    if given is None or given == "auto":
        return given  # type: ignore[return-value]  # narrowed to "auto" or None
    try:
        return float(given)
    except ValueError:
        raise typer.BadParameter(f"{given} is no cosine: give -1 to 1, or auto", param_hint="--min-cosine") from None


def _explained(explained: Explanation, embedder: str | None) -> None:
    text.retrieved(explained.pairs, None)
    bounds = {kind: bound for kind, bound in explained.bounds.items() if bound is not None}
    if bounds:
        typer.echo("least cosine used: " + ", ".join(f"{kind} {bound:.3f}" for kind, bound in bounds.items()))
    if explained.unused:
        typer.echo("\nnot used, nearest first:")
    for one in explained.unused:
        words = text.one_line(text.headline(one.entry), 60)
        typer.echo(f"{one.cosine:6.3f}  {one.entry.kind} {one.entry.id}: {words}")
        typer.echo(f"        {one.detail}")
    if explained.not_compared:
        typer.echo(f"{explained.not_compared:,} entries out of retrieval have no vector and were not compared")
    if embedder is not None:
        typer.echo(f"embedder: {embedder}")
