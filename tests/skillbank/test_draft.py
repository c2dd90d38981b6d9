"""The text form of an entry: any text comes back from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgsd.cli.bank import draft
from sgsd.errors import ConfigError, SGSDError

TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.sampled_from(["[title]", "\\[title]", "[x] ", "words", "", "# no", "\\", "\\\\[a_b]"])).map("\n".join),
)


@given(parts=st.lists(st.fixed_dictionaries(dict.fromkeys(draft.SKILL, TEXT)), min_size=1, max_size=3))
def test_any_text_comes_back(parts: list[dict[str, str]]) -> None:
    form = draft.written(parts, "Change the words.")
    assert draft.read(form) == [{name: draft.plain(text) for name, text in part.items()} for part in parts]
    assert draft.written(draft.read(form), "Change the words.") == form


def test_the_form_reads_well() -> None:
    form = draft.written([{"title": "Step on zorp", "principle": "Double\n[title]\nit"}], "\nAbout\n")
    assert form == "About\n\n[title]\nStep on zorp\n\n[principle]\nDouble\n\\[title]\nit\n"


def test_what_stands_before_the_first_name_is_left_out() -> None:
    assert draft.read("a\nb\n[title]\r\n\r\nWords \r\nmore\r\n\r\n") == [{"title": "Words \nmore"}]
    assert draft.read("nothing named") == []


@given(text=st.text(st.sampled_from("[]ab_title\\ \n")))
def test_whatever_is_read_no_field_is_invented(text: str) -> None:
    try:
        parts = draft.read(text)
    except ConfigError:
        parts = []
    assert {name for part in parts for name in part} <= set(draft.NAMES)


def test_an_unknown_name_is_told_with_the_fix() -> None:
    with pytest.raises(ConfigError, match=r"\[titel\] is no field: use title, principle, .* or write \\\[titel\]"):
        draft.read("[titel]\nx")


@pytest.mark.parametrize(
    ("editor", "expected"),
    [
        ("true", None),
        ("sh -c 'cp /dev/null \"$1\"' sh", None),
        ("sh -c 'rm \"$1\"' sh", None),
        ("sh -c 'printf x >> \"$1\"' sh", "wordsx"),
    ],
)
def test_unchanged_emptied_or_gone_is_nothing(
    editor: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL", editor)
    assert draft.edited("words") == expected


@pytest.mark.parametrize(
    ("editor", "message"),
    [
        ("false", "the editor false ended with 1: nothing was changed"),
        ("no-such-editor --wait", "the editor no-such-editor --wait cannot be started (No such file or directory)"),
        ('sh -c \'printf "\\377" > "$1"\' sh', "the editor left no UTF-8 text"),
        ("sh -c 'kill -9 $$' sh", "ended with -9"),
        ("'", 'EDITOR is "\'", which is no command'),
    ],
)
def test_an_editor_that_fails(editor: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", editor)
    with pytest.raises(SGSDError) as caught:
        draft.edited("words")
    assert message in str(caught.value)
