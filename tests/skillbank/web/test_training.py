"""The page about training: the ledger's shares, the placebo's beside them, the best and the worst, of a run."""

from __future__ import annotations

import re

from skillbank.store import Bank

from ..test_training_view import used
from .conftest import Pages, text_of


def test_an_empty_ledger_says_so(pages: Pages) -> None:
    assert "No run has used the bank yet" in text_of(pages.get("/training"))


def test_shares_placebo_and_ranking_of_a_run(bank: Bank, pages: Pages) -> None:
    rows = [used(step, f"p{step}", +1 if step % 4 else -1, 1, 2) for step in range(1, 41)]
    rows += [used(step, f"p{step}", -1 if step % 4 else 0, 4, 5) for step in range(1, 41)]
    rows += [used(step, f"p{step}", 0, 0, 0) for step in range(1, 41)]
    bank.record_usage(rows)
    page = pages.get("/training")
    said = text_of(page)
    assert "Steps 1 to 40, 80 uses in all, 40 placebos" in said
    assert re.search(r"helpful 37\.5 % \d+\.\d \d+\.\d .*? 0\.0 %", said)
    assert re.search(r"harmful 50\.0 %", said)
    ranking = said.split("Most and least useful")[1]
    assert ranking.index("pair 3") < ranking.index("skill 4")
    assert page.count('<svg class="plot"') == 2
    bars = page.split('<svg class="plot"')[1].split("</svg>")[0]
    assert bars.count('class="part part-helpful"') == 20  # forty steps, two a bar
    one = text_of(pages.get("/training?entry=1"))
    assert "of skill 1" in one
    assert "helpful 75.0 %" in one
    assert "uses 40" not in one
    assert "Estimate by the lower bound" in one


def test_a_run_that_is_not_there_and_an_entry_that_was_not_used(bank: Bank, pages: Pages) -> None:
    bank.record_usage([used(1, "p", 1, 1, 2)])
    assert "no run 'z' in the ledger: it has a" in text_of(pages.get("/training?run=z", status=422))
    assert "This run never used it" in text_of(pages.get("/training?entry=7"))
    assert "no entry 99" in text_of(pages.get("/training?entry=99", status=404))
    assert 'href="/training?entry=1"' in pages.get("/entries/1")
