"""`sgsd bank retrieve`: the pairs that a problem is given."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from sgsd.cli.bank import text
from sgsd.cli.bank.app import app
from sgsd.cli.bank.options import BankOption, JsonOption
from sgsd.cli.common import emit, waiting

Mode = Literal["similar", "random"]


@app.command(epilog='Example: sgsd bank retrieve "What is 5 zorp 7 modulo 23?" --bank bank --k 4')
def retrieve(
    problem: Annotated[str, typer.Argument(metavar="PROBLEM", help="The text of a problem.")],
    bank: BankOption,
    k: Annotated[int, typer.Option(min=1, help="Pairs to retrieve.")] = 8,
    temperature: Annotated[float, typer.Option(min=1e-6, help="Of the softmax over a pool's cosines.")] = 1.0,
    mode: Annotated[Mode, typer.Option(help="By cosine, or uniformly at random.")] = "similar",
    problem_id: Annotated[str | None, typer.Option(help="Leave out what rests on this problem alone.")] = None,
    own: Annotated[bool, typer.Option("--own", help="Keep what rests on this very problem alone.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of random retrieval.")] = 0,
    json: JsonOption = False,
) -> None:
    """Show the pairs that would guide the teachers of a problem, with their weights."""
    if not problem.strip():
        raise typer.BadParameter("the problem has no words", param_hint="PROBLEM")
    with waiting("loading the embedder"):
        from skillbank.retrieve import open_retriever

        retriever = open_retriever(
            bank, k=k, temperature=temperature, mode=mode, leave_one_problem_out=not own, seed=seed
        )
    with retriever.bank:
        pairs = retriever.retrieve([problem], None if problem_id is None else [problem_id])[0]
    embedder = None if retriever.embedder is None else retriever.embedder.describe()
    payload = {"embedder": embedder, "pairs": [pair.model_dump(mode="json") for pair in pairs]}
    emit(payload, json, lambda: text.retrieved(pairs, embedder))
