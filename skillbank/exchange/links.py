"""The order in which linked items come into a bank: an entry before its parts, a superseded one before its heir."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from skillbank.exchange.items import Item


def parents_first(items: Mapping[str, Item]) -> Iterator[Item]:
    """Skills and mistakes, in their order but for those that are parts of others: those others come before them."""
    done: set[str] = set()
    for ref in items:
        chain: list[str] = []
        while ref in items and ref not in done and ref not in chain:
            chain.append(ref)
            ref = items[ref].split_from or ""
        for name in reversed(chain):
            done.add(name)
            if items[name].kind != "pair":
                yield items[name]


def deepest_first(links: Mapping[str, str]) -> list[str]:
    """Of chains, the ends that nothing is superseded by come first: one that is superseded cannot stand for others."""
    depth: dict[str, int] = {}
    for ref in links:
        chain: list[str] = []
        at = ref
        while at in links and at not in depth and at not in chain:
            chain.append(at)
            at = links[at]
        for name in reversed(chain):
            depth[name] = depth.get(links[name], 0) + 1
    return sorted(links, key=lambda ref: -depth[ref])
