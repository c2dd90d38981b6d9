"""Measure a large bank beside plain sqlite3 and plain faiss, which do the same work on the same rows in the same run.

    python scripts/bench_bank.py                                   # 1,000,000 entries of 384 dimensions, a table
    python scripts/bench_bank.py --entries 100000 --threads 1 --json
    python scripts/bench_bank.py --folder /data/bench --keep       # made once, measured again

The bank is made by synthetic_bank.py: skills and mistakes with words and vectors, and pairs of them on top. Both sides
take turns, and the median of the rounds is told; each side runs once more alone, in a process of its own, for the peak
of its memory. Plain faiss is one IndexFlatIP over all vectors, once as it comes and once with its threshold for matrix
multiplication set as ours is. Plain sqlite3 is a table of the same entries with an FTS5 index of the same words.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import plain_table
import synthetic_bank

BARS = {"vector": 1.2, "keyword": 1.5}
REJECTED = 10_000
KEYWORDS = {"rare": (20_000, 25_000, 30_000), "medium": (400, 500, 600), "common": (4, 5, 6)}
"""Places of the words searched for in the vocabulary, commonest first."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000, help="skills and mistakes")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to make the bank; a temporary folder without it")
    parser.add_argument("--keep", action="store_true", help="leave the bank where it is, and use one that is there")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # read by the processes that are started from here
    folder = args.folder or Path(tempfile.mkdtemp(prefix="bench-bank-"))
    try:
        report = run(folder, args.entries, args.dim, args.rounds) | {"threads": args.threads}
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report, indent=2) if args.json else table(report))


def run(folder: Path, entries: int, dim: int, rounds: int) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "made").exists():
        apart(make, folder, entries, dim)
        (folder / "made").touch()
    work = {name: apart(measure, folder, entries, dim, rounds) for name, measure in MEASURES.items()}
    memory = {name: apart(alone, folder, entries, dim, name) for name in ALONE}
    return {
        "entries": entries,
        "dim": dim,
        "rows": [row for rows in work.values() for row in rows],
        "memory_mb": memory,
    }


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function in a fresh process, so that one measurement's memory is not the next one's."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(function, arguments)


# --------------------------------------------------------------------------------------------------------------- made


def make(folder: Path, entries: int, dim: int) -> None:
    """The bank, the table of plain sqlite3 and the index of plain faiss."""
    import faiss

    shutil.rmtree(folder / "bank", ignore_errors=True)
    synthetic_bank.make(folder / "bank", entries, dim)
    plain = plain_table.PlainTable(folder / "plain.sqlite")
    plain.fill(folder / "bank" / "bank.sqlite")
    index = faiss.IndexFlatIP(dim)
    for chunk in synthetic_bank.vectors(entries, dim):
        index.add(chunk)
    faiss.write_index(index, str(folder / "plain.faiss"))


# ----------------------------------------------------------------------------------------------------------- measured


def alternate(sides: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Milliseconds of each, the median of rounds in which all take turns; the first round warms up."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for n in range(rounds + 1):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            if n:
                taken[name].append(1000 * (time.perf_counter() - started))
    return {name: round(statistics.median(values), 3) for name, values in taken.items()}


def row(work: str, taken: Mapping[str, float], bar: str | None = None) -> dict[str, Any]:
    others = [value for name, value in taken.items() if name != "ours"]
    ratio = round(taken["ours"] / min(others), 2) if others else None
    return {"work": work, **taken, "ratio": ratio, "bar": BARS.get(bar or "")}


def measure_opening(folder: Path, entries: int, dim: int, rounds: int) -> list[dict[str, Any]]:
    import faiss

    from skillbank.index import VectorIndex

    embedder = synthetic_bank.NoEmbedder(dim)
    with opened(folder) as bank:
        shutil.rmtree(bank.path / "index", ignore_errors=True)
        build = alternate_once({"ours": lambda: VectorIndex.open(bank, embedder)})
        taken = alternate(
            {
                "ours": lambda: VectorIndex.open(bank, embedder),
                "plain": lambda: faiss.read_index(str(folder / "plain.faiss")),
            },
            2,
        )
    return [row("build the index from the bank's vectors and write it", build), row("open the written index", taken)]


def alternate_once(sides: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    taken = {}
    for name, side in sides.items():
        started = time.perf_counter()
        side()
        taken[name] = round(1000 * (time.perf_counter() - started), 1)
    return taken


def measure_vectors(folder: Path, entries: int, dim: int, rounds: int) -> list[dict[str, Any]]:
    import faiss
    import numpy as np

    from skillbank.index import VectorIndex
    from skillbank.index.nearest import BLAS_FROM_QUERIES

    default = faiss.cvar.distance_compute_blas_threshold

    def plain_search(queries_ND: Any, threshold: int) -> Any:
        faiss.cvar.distance_compute_blas_threshold = threshold
        try:
            return plain.search(queries_ND, 8)
        finally:
            faiss.cvar.distance_compute_blas_threshold = default

    def our_search(queries_ND: Any) -> list[Any]:
        return [index.search(kind, queries_ND, 8) for kind in ("skill", "mistake")]

    rows = []
    with opened(folder) as bank:
        index = VectorIndex.open(bank, synthetic_bank.NoEmbedder(dim))
        plain = faiss.read_index(str(folder / "plain.faiss"))
        for count in (1, 16, 64):
            queries_ND = synthetic_bank.queries(entries, dim, count)
            sides: dict[str, Callable[[], Any]] = {
                "ours": lambda q=queries_ND: our_search(q),
                "plain": lambda q=queries_ND: plain_search(q, default),
                "plain, set": lambda q=queries_ND: plain_search(q, BLAS_FROM_QUERIES * dim),
            }
            rows.append(row(f"vector search, {count} at once, top 8", alternate(sides, rounds), "vector"))
        best = np.sort(plain_search(queries_ND, BLAS_FROM_QUERIES * dim)[0], axis=1)[:, ::-1]
        mine = np.sort(np.hstack([cosines for cosines, _ in our_search(queries_ND)]), axis=1)[:, :-9:-1]
        assert np.allclose(best, mine, atol=1e-5), "both sides must find the same"
    return rows


def measure_approximate(folder: Path, entries: int, dim: int, rounds: int) -> list[dict[str, Any]]:
    """Exact search of one kind against approximate search of the same vectors, as `nearest.py` would build it."""
    import numpy as np

    from skillbank.index.nearest import Nearest, recall

    vectors_ND = np.concatenate(list(synthetic_bank.vectors(entries // 2, dim)))
    ids_N = np.arange(len(vectors_ND))
    exact = Nearest.build(ids_N, vectors_ND)
    started = time.perf_counter()
    approximate = Nearest.build(ids_N, vectors_ND, approximate=True)
    built = round(1000 * (time.perf_counter() - started), 1)
    rows = [row(f"build the approximate index of {len(ids_N):,} vectors", {"ours": built})]
    for count in (1, 64):
        queries_ND = synthetic_bank.queries(entries // 2, dim, count)
        sides: dict[str, Callable[[], Any]] = {
            "ours": lambda q=queries_ND: approximate.search(q, 8),
            "exact": lambda q=queries_ND: exact.search(q, 8),
        }
        found = recall(exact.search(queries_ND, 8)[1], approximate.search(queries_ND, 8)[1])
        label = f"approximate beside exact, {count} at once: reads {approximate.probes} lists, finds {found:.1%}"
        rows.append(row(label, alternate(sides, rounds)))
    return rows


def measure_keywords(folder: Path, entries: int, dim: int, rounds: int) -> list[dict[str, Any]]:
    from skillbank.store.matching import by_relevance
    from skillbank.store.query import Query

    vocabulary = synthetic_bank.words()
    searches = {name: [vocabulary[n] for n in places] for name, places in KEYWORDS.items()}
    searches["three common words"] = [" ".join(vocabulary[n] for n in (3 + m, 30 + m, 90 + m)) for m in range(3)]
    plain = plain_table.PlainTable(folder / "plain.sqlite")
    rows = []
    with opened(folder) as bank:
        for name, texts in searches.items():
            found = sum(bank.count(Query(text=text, kind=kind)) for text in texts for kind in ("skill", "mistake"))
            finding: dict[str, Callable[[], Any]] = {
                "ours": lambda ts=texts: [by_relevance(bank.db, Query(text=t), limit=plain_table.PAGE) for t in ts],
                "plain": lambda ts=texts: [plain.search(text) for text in ts],
            }
            reading: dict[str, Callable[[], Any]] = {
                "ours": lambda ts=texts: [
                    bank.entries(Query(text=t), sort="relevance", limit=plain_table.PAGE) for t in ts
                ],
                "plain": lambda ts=texts: [plain.read(text) for text in ts],
            }
            label = f"keyword search, {name} ({found // 3:,} texts), ids of the best {plain_table.PAGE}"
            rows.append(row(label, per_search(alternate(finding, rounds)), "keyword"))
            rows.append(row("the same, with the entries read", per_search(alternate(reading, rounds))))
    return rows


def per_search(taken: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value / 3, 3) for name, value in taken.items()}


def measure_pages(folder: Path, entries: int, dim: int, rounds: int) -> list[dict[str, Any]]:
    from skillbank.store.query import Query

    plain = plain_table.PlainTable(folder / "plain.sqlite")
    deep = entries * 3 // 2 * 9 // 10
    rows = []
    with opened(folder) as bank:
        for label, sort, order, offset in (
            ("first page, oldest first", "id", "id", 0),
            ("first page, most evidence first", "evidence", "places DESC, id", 0),
            (f"page at {deep:,}, oldest first", "id", "id", deep),
            (f"page at {deep:,}, most evidence first", "evidence", "places DESC, id", deep),
        ):
            sides: dict[str, Callable[[], Any]] = {
                "ours": lambda s=sort, o=offset: bank.entries(sort=s, limit=plain_table.PAGE, offset=o),
                "plain": lambda s=order, o=offset: plain.page(s, o),
            }
            rows.append(row(label, alternate(sides, rounds)))
        where = Query(kind="skill", status="active")
        sides = {
            "ours": lambda: bank.count(where),
            "plain": lambda: plain.count("kind = 'skill' AND status = 'active'"),
        }
        rows.append(row("count active skills", alternate(sides, rounds)))
    return rows


def measure_curation(folder: Path, entries: int, dim: int, rounds: int) -> list[dict[str, Any]]:
    """Rejects, undoes, and lets the index follow: what a curator, and a trainer beside it, wait for."""
    from skillbank import curate
    from skillbank.index import VectorIndex

    embedder = synthetic_bank.NoEmbedder(dim)
    plain = plain_table.PlainTable(folder / "plain.sqlite")
    taken: dict[str, list[dict[str, float]]] = {"reject": [], "undo": [], "refresh": [], "reopen": []}
    with opened(folder) as bank:
        index = VectorIndex.open(bank, embedder)
        for n in range(3):
            ids = list(range(1 + n, 3 * REJECTED + 1 + n, 3))
            if n == 2:
                ids = [3 * i + 1 for i in range(0, entries // 2, entries // 2 // REJECTED)][:REJECTED]  # spread out
            reject: dict[str, Callable[[], Any]] = {
                "ours": lambda ids=ids: curate.reject(bank, ids, actor="bench", reason="measured"),
                "plain": lambda ids=ids: plain.set_status(ids, "retired"),
            }
            undo: dict[str, Callable[[], Any]] = {
                "ours": lambda: curate.undo(bank, actor="bench"),
                "plain": lambda ids=ids: plain.set_status(ids, "active"),
            }
            taken["reject"].append(alternate_once(reject))
            taken["refresh"].append(alternate_once({"ours": index.refresh}))
            taken["undo"].append(alternate_once(undo))
            taken["reopen"].append(alternate_once({"ours": lambda: VectorIndex.open(bank, embedder)}))
            index.refresh()
    labels = {
        "reject": f"reject {REJECTED:,} entries",
        "undo": f"undo that ({REJECTED:,} entries)",
        "refresh": "the index follows the rejection, in memory",
        "reopen": "the index is opened anew after both",
    }
    return [row(labels[name], _medians(rounds_taken)) for name, rounds_taken in taken.items()]


def _medians(taken: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(one[name] for one in taken), 1) for name in taken[0]}


MEASURES: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "opening": measure_opening,
    "vectors": measure_vectors,
    "approximate": measure_approximate,
    "keywords": measure_keywords,
    "pages": measure_pages,
    "curation": measure_curation,
}


# ------------------------------------------------------------------------------------------------------------- memory


def alone(folder: Path, entries: int, dim: int, name: str) -> float:
    """Peak memory of one side doing one thing, in MB."""
    ALONE[name](folder, entries, dim)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 0)


def _our_search(folder: Path, entries: int, dim: int) -> None:
    from skillbank.index import VectorIndex

    with opened(folder) as bank:
        index = VectorIndex.open(bank, synthetic_bank.NoEmbedder(dim))
        for kind in ("skill", "mistake"):
            index.search(kind, synthetic_bank.queries(entries, dim, 64), 8)


def _plain_search(folder: Path, entries: int, dim: int) -> None:
    import faiss

    plain = faiss.read_index(str(folder / "plain.faiss"))
    plain.search(synthetic_bank.queries(entries, dim, 64), 8)


def _our_building(folder: Path, entries: int, dim: int) -> None:
    from skillbank.index import VectorIndex

    with opened(folder) as bank:
        shutil.rmtree(bank.path / "index", ignore_errors=True)
        VectorIndex.open(bank, synthetic_bank.NoEmbedder(dim))


def _our_words(folder: Path, entries: int, dim: int) -> None:
    measure_keywords(folder, entries, dim, 1)


def _our_rejection(folder: Path, entries: int, dim: int) -> None:
    from skillbank import curate

    with opened(folder) as bank:
        curate.reject(bank, list(range(1, 3 * REJECTED, 3)), actor="bench", reason="measured")
        curate.undo(bank, actor="bench")


ALONE: dict[str, Callable[[Path, int, int], None]] = {
    "open and search, ours": _our_search,
    "open and search, plain faiss": _plain_search,
    "build and write the index": _our_building,
    "keyword search, both": _our_words,
    "reject and undo": _our_rejection,
}


def opened(folder: Path) -> Any:
    from skillbank.store import Bank

    return Bank.open(folder / "bank")


def _number(milliseconds: float) -> str:
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def table(report: Mapping[str, Any]) -> str:
    def lines() -> Iterator[str]:
        yield f"{report['entries']:,} skills and mistakes of {report['dim']} dimensions, {report['threads']} threads"
        yield "| work | ours, ms | plain, ms | plain, set for speed, ms | exact, ms | ratio |"
        yield "|---|---:|---:|---:|---:|---:|"
        for one in report["rows"]:
            values = [_number(one[name]) if name in one else "" for name in ("ours", "plain", "plain, set", "exact")]
            ratio = "" if one["ratio"] is None else f"{one['ratio']:.2f}"
            bar = f" (at most {one['bar']})" if one["bar"] else ""
            yield f"| {one['work']} | {' | '.join(values)} | {ratio}{bar} |"
        for name, megabytes in report["memory_mb"].items():
            yield f"peak memory, {name}: {megabytes:,.0f} MB"

    return "\n".join(lines())


if __name__ == "__main__":
    main()
