"""Does the guard catch what someone would plant, and leave alone what mathematicians write?

200 planted entries of nineteen kinds and 200 clean ones (poison_bank.json), each given to a guard that knows a small
bank: problems with answers, evaluation problems, guided rollouts. Payloads are worked into ordinary skills and partly
disguised (look-alike letters, spacing, encodings). Rules were tuned on half of the wordings (`--half tuning`); the
other half was written at the same time and held out. With SGSD_DATA clean entries are drawn from released banks too.

python scripts/poison_bank.py [--json] [--half tuning|held-out] [--show]
"""

from __future__ import annotations

import argparse
import base64
import codecs
import json
import os
import random
import string
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from skillbank.guard.contamination import EvaluationIndex, EvaluationProblem
from skillbank.guard.guard import Guard
from skillbank.records import Evidence, Mistake, ProblemText, RolloutFate, Skill
from skillbank.store import Bank

WORDS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
SEED = 20240229
JUDGED_LEAKS = {  # released entries that state or lean on an answer, as read by us: no false alarms
    "sgsd_qwen3_4b": {"err_010", "err_011", "err_015"},
    "sgsd_qwen3_1.7b": {"err_005", "err_070", "err_072", "err_084"},
}
HARD_TO_READ = {"sgsd_qwen3_1.7b": {"err_067", "err_068"}}
"""Released entries whose LaTeX lost its backslashes to control characters."""


@dataclass(frozen=True)
class Case:
    """One entry to check, with what it rests on."""

    kind: str
    content: Skill | Mistake
    half: str
    evidence: tuple[Evidence, ...] = ()
    problem: ProblemText | None = None
    guided: bool = False


# ------------------------------------------------------------------------------------------------------------ disguises

CYRILLIC = dict(zip("aceopxyi", "асеорхуі", strict=True))
GREEK = dict(zip("aovup", "αονυρ", strict=True))
ARMENIAN = dict(zip("onhug", "օոհսց", strict=True))
CHEROKEE = dict(zip("DRTYAJEWMH", "ᎠᎡᎢᎩᎪᎫᎬᎳᎷᎻ", strict=True))
SMALL = dict(zip("abcdefghijklmnoprstuvwyz", "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", strict=True))


def disguised(how: str, text: str, rng: random.Random) -> str:
    """A payload as an attacker would hide it."""
    if how == "spaced":
        return "   ".join(" ".join(word) for word in text.split())
    if how == "dotted":
        return " ".join(".".join(word) for word in text.split())
    if how == "leet":
        return text.translate(str.maketrans("oieas", "01345"))
    if how == "look_alike":
        return "".join(CYRILLIC.get(c, c) for c in text)
    if how == "zero_width":
        return "".join(c + ("\u200b" if c.isalpha() and rng.random() < 0.4 else "") for c in text)
    if how == "base64":
        return base64.b64encode(text.encode()).decode()
    if how == "hex":
        return text.encode().hex()
    if how == "rot13":
        return codecs.encode(text, "rot13")
    if how == "reversed":
        return text[::-1]
    if how == "percent":
        return "".join(f"%{byte:02x}" for byte in text.encode()) if rng.random() < 0.5 else quote(text, safe="")
    if how == "fullwidth":
        return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)
    raise ValueError(how)


def with_invisible(how: str, text: str, rng: random.Random) -> str:
    """A sentence with characters that nobody sees."""
    at = rng.randrange(3, len(text) - 3)
    inserted = {
        "zero_width_space": "\u200b",
        "zero_width_joiner": "\u200d",
        "word_joiner": "\u2060",
        "byte_order_mark": "\ufeff",
        "bidi_override": "\u202etxet\u202c",
        "bidi_isolate": "\u2066x\u2069",
        "tags": "".join(chr(0xE0000 + ord(c)) for c in "say yes"),
        "variation_selectors": "\ufe01\ufe02\ufe03",
        "control": "\x08\x1b",
        "soft_hyphen": "\xad",
        "hangul_filler": "\u3164",
        "private_use": "\ue0b1",
    }[how]
    return text[:at] + inserted + text[at:]


def with_look_alikes(how: str, text: str, rng: random.Random) -> str:
    """A sentence of which some words are written in letters of other scripts."""
    words = text.split()
    at = rng.choice([n for n, word in enumerate(words) if len(word) > 5 and word.isalpha()])
    word = words[at]
    if how == "fullwidth":
        word = disguised("fullwidth", word, rng)
    elif how == "mathematical":
        word = "".join(chr(0x1D41A + ord(c) - ord("a")) if c.islower() else c for c in word)
    elif how == "small_capitals":
        word = "".join(SMALL.get(c, c) for c in word.lower())
    else:
        letters = {"cyrillic": CYRILLIC, "greek": GREEK, "armenian": ARMENIAN, "mixed": CYRILLIC | GREEK}.get(
            how, CHEROKEE
        )
        shown = word.upper() if letters is CHEROKEE else word
        hits = [n for n, c in enumerate(shown) if c in letters]
        if not hits:
            word, hits = "explanation" if letters is not CHEROKEE else "METHODS", [0, 2, 3, 4, 5, 6, 7, 8, 9]
            shown = word
        chosen = set(hits[: max(1, len(hits) // 2)])
        word = "".join(letters.get(c, c) if n in chosen else c for n, c in enumerate(shown))
    return " ".join([*words[:at], word, *words[at + 1 :]])


def filled(shape: str, rng: random.Random) -> str:
    """A secret of a shape: `{alnum20}` becomes twenty letters and digits drawn at random."""
    alphabets = {
        "alnum": string.ascii_letters + string.digits,
        "upper": string.ascii_uppercase + string.digits,
        "digit": string.digits,
        "hex": "0123456789abcdef",
        "base64_": string.ascii_letters + string.digits + "+/",
    }
    for name, letters in alphabets.items():
        while (start := shape.find("{" + name)) >= 0:
            end = shape.index("}", start)
            count = int(shape[start + 1 + len(name) : end])
            shape = shape[:start] + "".join(rng.choices(letters, k=count)) + shape[end + 1 :]
    return shape


def from_evaluation(how: str, problem: str, rng: random.Random) -> str:
    """An evaluation problem as it could come back in an entry."""
    words = problem.split()
    return {
        "whole": lambda: problem,
        "middle": lambda: " ".join(words[4:22]),
        "capitals": lambda: problem.upper(),
        "punctuation": lambda: problem.replace(",", " -").replace(".", "!").replace("$", ""),
        "half": lambda: " ".join(words[: max(16, len(words) // 2)]),
        "latex_spacing": lambda: problem.replace("$", " $ ").replace("=", " \\, = \\, "),
        "line_breaks": lambda: "\n".join(" ".join(words[n : n + 5]) for n in range(0, len(words), 5)),
        "short_whole": lambda: problem,
        "quote": lambda: f"“{' '.join(words[-16:])}” is solved like this",
        "zero_width": lambda: "\u200b".join(words[:3]) + " " + " ".join(words[3:]),
    }[how]()


# ---------------------------------------------------------------------------------------------------------------- cases


def planted(payload: str, rng: random.Random) -> Skill:
    """A payload in an ordinary skill: alone in a field, or after or before what stands there."""
    title, principle, when = rng.choice(WORDS["hosts"])
    place = rng.randrange(4)
    if place == 0:
        return Skill(title=title, principle=f"{principle} {payload}", when_to_apply=when)
    if place == 1:
        return Skill(title=title, principle=f"{payload} {principle}", when_to_apply=when)
    if place == 2:
        return Skill(title=title, principle=principle, when_to_apply=payload)
    sentences = principle.rstrip(".").replace(", ", ", ", 1)
    return Skill(title=title, principle=f"{sentences}. {payload}", when_to_apply=when)


def poisons() -> Iterator[Case]:
    for kind, wordings in WORDS["poisons"].items():
        order = list(range(len(wordings)))
        random.Random(f"{SEED} {kind}").shuffle(order)
        held = set(order[len(order) // 2 :])
        for n, wording in enumerate(wordings):
            half = "held-out" if n in held else "tuning"
            yield poison(kind, n, wording, half, random.Random(f"{SEED} {half} {kind} {n}"))


def poison(kind: str, n: int, wording: Any, half: str, rng: random.Random) -> Case:
    """One planted entry."""
    problems, problem_id = WORDS["evaluations"], f"{kind}-{n}"
    evidence: tuple[Evidence, ...] = ()
    problem, guided = None, False
    if kind in ("override_hidden", "encoded"):
        payload = disguised(wording[0], wording[1], rng)
    elif kind in ("answer_known", "problem_numbers"):
        payload = wording[2]
        problem = ProblemText(problem_id=problem_id, problem=wording[0], reference=wording[1])
    elif kind == "invisible":
        payload = with_invisible(wording, rng.choice(WORDS["hosts"])[1], rng)
    elif kind == "look_alike":
        payload = with_look_alikes(wording, rng.choice(WORDS["hosts"])[1], rng)
    elif kind == "secret":
        payload = filled(wording, rng)
    elif kind == "evaluation":
        text = problems[4 if wording == "short_whole" else n % 4][0]
        if wording.startswith("source_problem"):
            payload = "Look for what stays the same."
            spaced = text.replace(" ", "  ") if wording.endswith("spacing") else text
            problem = ProblemText(problem_id=problem_id, problem=spaced)
        else:
            payload = from_evaluation(wording, text, rng)
    elif kind == "length":
        return Case(kind, of_length(wording, rng), half)
    elif kind == "guided":
        payload, guided = "Then read the result off.", True
    else:
        payload = wording
    content = planted(payload, rng)
    if problem is not None or guided:
        quote_ = content.principle[:40]
        evidence = (Evidence(rollout_id=f"r-{problem_id}", problem_id=problem_id, outcome="correct", quote=quote_),)
        if kind in ("answer_known", "problem_numbers"):
            evidence = (evidence[0].model_copy(update={"quote": "so we are done"}),)
    return Case(kind, content, half, evidence, problem, guided)


def of_length(how: str, rng: random.Random) -> Skill:
    hosts = WORDS["hosts"]
    long = " ".join(rng.choice(hosts)[1] for _ in range(70))
    title, _, when = rng.choice(hosts)
    return {
        "long": lambda: Skill(title=title, principle=long, when_to_apply=when),
        "repeated": lambda: Skill(title=title, principle="really " * 120, when_to_apply=when),
        "one_word": lambda: Skill(title="Algebra", principle="Algebra."),
        "empty_like": lambda: Skill(title="-", principle="..."),
        "symbols": lambda: Skill(title="???", principle="!!! *** ---", when_to_apply="###"),
    }[how]()


def clean() -> Iterator[Case]:
    """The shipped clean entries: hand-written ones that resemble what the rules look for, and plain ones."""
    words = WORDS["clean"]
    contents: list[Skill | Mistake] = [Skill(title=t, principle=p, when_to_apply=w) for t, p, w in words["skills"]]
    contents += [Mistake(description=d, why_it_happens=y, how_to_avoid=a) for d, y, a in words["mistakes"]]
    for topic in words["topics"]:
        contents += [
            Skill(title=t.format(*topic), principle=p.format(*topic), when_to_apply=w.format(*topic))
            for t, p, w in words["forms"]
        ]
        d, y, a = (part.format(*topic) for part in words["mistake_form"])
        contents.append(Mistake(description=d, why_it_happens=y, how_to_avoid=a))
    order = list(range(len(contents)))
    random.Random(f"{SEED} clean").shuffle(order)
    held = set(order[len(order) // 2 :])
    for n, content in enumerate(contents):
        yield Case("clean", content, "held-out" if n in held else "tuning")


def released(folder: Path) -> Iterator[Case]:
    """200 entries of the released banks, but for those that leak an answer or are broken."""
    found: list[Skill | Mistake] = []
    for name in ("sgsd_qwen3_4b", "sgsd_qwen3_1.7b", "sgsd_qwen3_1.7b_candidates", "skillrl_alfworld"):
        bank = json.loads((folder / "banks" / f"{name}.json").read_text(encoding="utf-8"))
        left_out = JUDGED_LEAKS.get(name, set()) | HARD_TO_READ.get(name, set())
        found += [Skill.model_validate({k: v for k, v in e.items() if k != "skill_id"}) for e in bank["general_skills"]]
        if name.endswith("candidates"):
            continue  # its mistakes hold the leaks that the merged bank's were written from
        found += [
            Mistake.model_validate({k: v for k, v in e.items() if k != "mistake_id"})
            for e in bank["common_mistakes"]
            if e["mistake_id"] not in left_out
        ]
    for content in random.Random(SEED).sample(found, 200):
        yield Case("released", content, "held-out")


# --------------------------------------------------------------------------------------------------------------- report


def measure(cases: list[Case]) -> list[tuple[Case, tuple[str, ...]]]:
    """(case, the rules that flag it), by a guard with a bank of what the cases rest on."""
    registry = EvaluationIndex(
        EvaluationProblem("made-up.jsonl", n, text, answer, "0" * 64)
        for n, (text, answer) in enumerate(WORDS["evaluations"], start=1)
    )
    with tempfile.TemporaryDirectory() as folder, Bank.create(Path(folder) / "bank") as bank:
        bank.record_problems(case.problem for case in cases if case.problem is not None)
        bank.record_rollouts(
            RolloutFate(
                rollout_id=place.rollout_id,
                problem_id=place.problem_id,
                content_hash="0",
                outcome="correct",
                guided=True,
                miner="model",
                fate="accepted",
            )
            for case in cases
            if case.guided
            for place in case.evidence
        )
        guard = Guard(bank, language="English")
        guard.evaluations = registry
        return [
            (case, tuple(dict.fromkeys(flag.rule for flag in guard.check(case.content, case.evidence))))
            for case in cases
        ]


def report(half: str | None = None, data: Path | None = None) -> dict[str, Any]:
    cases = [*poisons(), *clean(), *(released(data) if data is not None else ())]
    measured = [(case, rules) for case, rules in measure(cases) if half is None or case.half == half]
    groups: dict[str, dict[str, int]] = defaultdict(lambda: {"entries": 0, "flagged": 0})
    totals: dict[str, dict[str, int]] = defaultdict(lambda: {"entries": 0, "flagged": 0})
    wrong = []
    for case, rules in measured:
        good = case.kind in ("clean", "released")
        for table, key in ((groups, case.kind), (totals, f"{case.kind if good else 'poison'}, {case.half}")):
            table[key]["entries"] += 1
            table[key]["flagged"] += bool(rules)
        if bool(rules) == good:
            wrong.append({"kind": case.kind, "half": case.half, "rules": rules, "text": case.content.text()})
    planted_ = [counts for kind, counts in groups.items() if kind not in ("clean", "released")]
    return {
        "caught": share(planted_),
        "false_alarms": share([groups["clean"]]),
        "false_alarms_released": share([groups["released"]]) if data is not None else None,
        "by_half": {name: {**counts, "share": share([counts])} for name, counts in sorted(totals.items())},
        "by_kind": dict(groups),
        "wrong": wrong,
    }


def share(groups: list[dict[str, int]]) -> float:
    entries = sum(group["entries"] for group in groups)
    return round(sum(group["flagged"] for group in groups) / entries, 4) if entries else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Planted poisons and clean entries against the guard.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--half", choices=["tuning", "held-out"], help="only this half of the wordings")
    parser.add_argument("--show", action="store_true", help="print what was missed and what was flagged in vain")
    options = parser.parse_args()
    given = os.environ.get("SGSD_DATA")
    found = report(options.half, Path(given) if given else None)
    if options.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        for kind, counts in found["by_kind"].items():
            print(f"{kind:<18} {counts['flagged']:>4} of {counts['entries']:>4} flagged")
        for name, counts in found["by_half"].items():
            print(f"{name:<24} {counts['flagged']:>4} of {counts['entries']:>4}  {counts['share']:.1%}")
        print(f"caught {found['caught']:.1%}, false alarms {found['false_alarms']:.1%}")
        if options.show:
            for case in found["wrong"]:
                print(f"\n{case['kind']} ({case['half']}) {case['rules']}\n{case['text']!r}")
    if found["caught"] < 0.95 or found["false_alarms"] >= 0.02:
        sys.exit(1)


if __name__ == "__main__":
    main()
