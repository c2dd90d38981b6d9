"""One call from beginning to end, and what its replies come to: items with their evidence, a fate for every rollout.

`answer` makes the call, with one attempt at repairing a reply that cannot be used. `mined_from` reads what came back,
now or in any later build. Left out: which calls there are (`calls.py`) and running many at once (`extract.py`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from skillbank.errors import CompletionFailed
from skillbank.mine.model.calls import Attempt, Call, Prepared, shorten
from skillbank.mine.model.complete import Complete, Message, Reply, Request
from skillbank.mine.model.ledger import FinishedCall
from skillbank.mine.model.prompts import Prompts
from skillbank.mine.model.quotes import find_quote
from skillbank.mine.model.reply import (
    Cited,
    MistakeItem,
    PairItem,
    ReadReply,
    ReplyInvalid,
    SkillItem,
    read_reply,
    strip_thinking,
)
from skillbank.records import (
    Evidence,
    Fate,
    MinedEntry,
    MinedPair,
    Provenance,
    Record,
    Rollout,
    RolloutFate,
    rollout_hash,
)

MINER = "model"
SHOWN_OF_A_BAD_REPLY = 4000
"""Characters of an unusable reply that the writer sees again."""


class Mined(Record):
    """What came of the rollouts of one problem."""

    problem_id: str
    items: tuple[MinedPair | MinedEntry, ...]
    fates: tuple[RolloutFate, ...]
    """One for every rollout of the group; `file` is left for the caller to fill in."""
    notices: dict[str, int]
    """What was shortened, left out or not found, by reason."""
    calls: int = 0
    calls_made: int = 0
    """Those that the ledger did not have."""
    prompt_tokens: int = 0
    """Of the calls made now."""
    completion_tokens: int = 0


# ---------------------------------------------------------------------------------------------------------- the call


async def answer(call: Call, complete: Complete, prompts: Prompts, *, attempts_before: int = 0) -> FinishedCall:
    """Makes a call; with one repair when the reply cannot be used as it is.

    A call that fails alone is dead. Raises EndpointUnavailable and EndpointRefuses: then no call would fare better.
    """
    started = time.perf_counter()
    replies: list[Reply] = []
    error: str | None = None
    try:
        replies.append(await complete(call.request))
        fault = _fault(replies[0], call)
        if fault is not None:
            replies.append(await complete(_repair(call.request, replies[0], fault, prompts)))
    except CompletionFailed as failure:
        error = str(failure)
    texts = tuple(reply.text for reply in replies)
    try:
        read_replies(texts, call)
        error = None  # a repair that failed takes nothing from what the first reply has
    except ReplyInvalid:
        error = error or f"reply invalid after a repair: {_fault(replies[-1], call)}"
    return FinishedCall(
        key=call.key,
        kind=call.kind,
        rollouts=tuple(rollout.rollout_id for rollout in call.rollouts()),
        prompt_hash=call.prompt_hash,
        model=call.model,
        state="done" if error is None else "dead",
        replies=texts,
        call=None if error is None else call,
        error=error,
        attempts=attempts_before + 1,
        prompt_tokens=_sum([reply.prompt_tokens for reply in replies]),
        completion_tokens=_sum([reply.completion_tokens for reply in replies]),
        seconds=round(time.perf_counter() - started, 3),
    )


def _fault(reply: Reply, call: Call) -> str | None:
    """What the writer is told to put right, None when there is nothing."""
    try:
        read = read_reply(reply.text, call.kind, call.max_items, cut_off=reply.finish_reason == "length")
    except ReplyInvalid as invalid:
        return str(invalid)
    return "; ".join(read.faults) or None


def _repair(request: Request, reply: Reply, fault: str, prompts: Prompts) -> Request:
    said = shorten(strip_thinking(reply.text), SHOWN_OF_A_BAD_REPLY) or "(an empty reply)"
    asked = prompts["repair"].messages(error=fault)
    return request.model_copy(update={"messages": (*request.messages, Message(role="assistant", content=said), *asked)})


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


# --------------------------------------------------------------------------------------------------------- its outcome


def read_replies(texts: Sequence[str], call: Call) -> ReadReply:
    """The first reply without a fault, else the last with anything usable. Raises ReplyInvalid when there is none."""
    usable: ReadReply | None = None
    invalid = ReplyInvalid("there is no reply")
    for text in texts:
        try:
            read = read_reply(text, call.kind, call.max_items)
        except ReplyInvalid as error:
            invalid = error
            continue
        if not read.faults:
            return read
        usable = read
    if usable is None:
        raise invalid
    return usable


def mined_from(prepared: Prepared, finished: FinishedCall | None, *, made: bool = False) -> Mined:
    """What a problem's rollouts came to. `finished` is its call's outcome, `made` tells that the call is a new one."""
    fates = [_fate(rollout, "rejected", reason) for rollout, reason in prepared.rejected]
    notices = Counter(prepared.notices)
    items: list[MinedPair | MinedEntry] = []
    if prepared.call is not None and finished is not None:
        call = prepared.call
        try:
            read = read_replies(finished.replies, call)
        except ReplyInvalid as invalid:
            reason = finished.error or f"reply invalid: {invalid}"
            fates += [_fate(rollout, "dead", reason) for rollout in call.rollouts()]
        else:
            items = _items(read, call, notices)
            fates += _fates(call, items)
    return Mined(
        problem_id=prepared.problem_id,
        items=tuple(items),
        fates=tuple(sorted(fates, key=lambda fate: fate.rollout_id)),
        notices=dict(sorted((+notices).items())),
        calls=int(finished is not None),
        calls_made=int(made and finished is not None),
        prompt_tokens=(finished.prompt_tokens or 0) if made and finished else 0,
        completion_tokens=(finished.completion_tokens or 0) if made and finished else 0,
    )


def _items(read: ReadReply, call: Call, notices: Counter[str]) -> list[MinedPair | MinedEntry]:
    notices.update(read.notices)
    notices["item faulty, left out"] += len(read.faults)
    provenance = Provenance(miner=MINER, model=call.model, prompt=call.prompt_hash, detail=f"call {call.key}")

    def side(item: SkillItem | MistakeItem) -> tuple[Evidence, ...]:
        return _evidence(item.evidence, call.right if isinstance(item, SkillItem) else call.wrong, notices)

    mined: list[MinedPair | MinedEntry] = []
    for item in read.items:
        if isinstance(item, PairItem):
            mined.append(
                MinedPair(
                    skill=item.skill.entry(),
                    mistake=item.mistake.entry(),
                    skill_evidence=side(item.skill),
                    mistake_evidence=side(item.mistake),
                    provenance=provenance,
                )
            )
        else:
            mined.append(MinedEntry(content=item.entry(), evidence=side(item), provenance=provenance))
    return mined


def _evidence(cited: Sequence[Cited], shown: Sequence[Attempt], notices: Counter[str]) -> tuple[Evidence, ...]:
    """The places that an item cites among the attempts of its outcome; all of these when it cites none of them."""
    found: dict[Evidence, None] = {}
    for one in cited:
        named = next((attempt for attempt in shown if attempt.number == one.attempt), None)
        for attempt in [*([named] if named else []), *(other for other in shown if other is not named)]:
            span = find_quote(one.quote, attempt.rollouts[0].completion)
            if span is not None:
                notices["quote found in another attempt than the one named"] += attempt is not named
                found |= dict.fromkeys(_places(attempt, span))
                break
        else:
            notices["quote not found, the whole attempt is the evidence"] += named is not None
            notices["evidence from no attempt that was shown, left out"] += named is None
            found |= dict.fromkeys(_places(named, None) if named else ())
    if not found:
        notices["item without evidence, rests on all attempts of its outcome"] += 1
        found = dict.fromkeys(place for attempt in shown for place in _places(attempt, None))
    return tuple(found)


def _places(attempt: Attempt, span: tuple[int, int] | None) -> list[Evidence]:
    return [
        Evidence(
            rollout_id=rollout.rollout_id,
            problem_id=rollout.problem_id,
            outcome=rollout.outcome,
            quote="" if span is None else rollout.completion[slice(*span)],
            span=span,
            source=rollout.source,
        )
        for rollout in attempt.rollouts
    ]


def _fates(call: Call, items: Sequence[MinedPair | MinedEntry]) -> list[RolloutFate]:
    """Accepted is what an item rests on."""
    borne = {
        place.rollout_id
        for item in items
        for place in ((*item.skill_evidence, *item.mistake_evidence) if isinstance(item, MinedPair) else item.evidence)
    }
    refusal = "no item of its call rests on it" if items else "the writer found nothing worth keeping"
    return [
        _fate(rollout, "accepted") if rollout.rollout_id in borne else _fate(rollout, "rejected", refusal)
        for rollout in call.rollouts()
    ]


def _fate(rollout: Rollout, fate: Fate, reason: str = "") -> RolloutFate:
    return RolloutFate(
        rollout_id=rollout.rollout_id,
        problem_id=rollout.problem_id,
        content_hash=rollout_hash(rollout),
        outcome=rollout.outcome,
        answer=rollout.answer,
        model=rollout.model,
        source=rollout.source,
        guided=rollout.guided,
        miner=MINER,
        fate=fate,
        reason=reason,
        completion=rollout.completion if fate == "accepted" else None,
    )
