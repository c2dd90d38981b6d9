"""The event of an addition is pieced together from texts that are there: it must be the JSON of what it says."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from skillbank.records import Flag, Kind, Mistake, Pair, Provenance, Skill, Status, content_hash
from skillbank.store.entering import DIGEST, row_and_event
from skillbank.store.events import Content, to_json

words = st.text(min_size=1, max_size=20)
contents: st.SearchStrategy[tuple[Content, Kind]] = st.one_of(
    st.tuples(st.builds(Skill, title=words, principle=words, when_to_apply=words), st.just("skill")),
    st.tuples(st.builds(Mistake, description=words, how_to_avoid=words), st.just("mistake")),
    st.tuples(st.just(Pair(skill_id=3, mistake_id=4)), st.just("pair")),
)


@given(contents, st.lists(words, max_size=3), st.booleans(), st.booleans(), st.sampled_from(["active", "disabled"]))
def test_the_event_is_the_json_of_what_is_set(
    given_content: tuple[Content, Kind], tags: list[str], flagged: bool, pinned: bool, status: Status
) -> None:
    content, kind = given_content
    flags = [Flag(rule="url", reason='"x"')] if flagged else []
    row, event = row_and_event(
        content,
        kind,
        revision=7,
        origin="mined",
        status=status,
        flags=flags,
        tags=tags,
        pinned=pinned,
        provenance=Provenance(miner="manual"),
    )
    expected = {"content": content.model_dump(), "version": 1, "status": status}
    expected |= {"pinned": True} if pinned else {}
    expected |= {"tags": sorted(set(tags))} if tags else {}
    expected |= {"flags": [flag.model_dump() for flag in flags]} if flags else {}
    assert event == to_json(expected)
    assert row[DIGEST] == content_hash(content)
    assert json.loads(str(row[-1])) == {"miner": "manual"}
