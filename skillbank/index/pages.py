"""Large pages for memory that is read from end to end, over and over.

One query on half a million vectors reads 768 MB. In pages of 4 KB the processor looks up 190,000 addresses on the way,
and where the memory is scattered that takes as long again as the reading (docs/benchmarks.md).
"""

from __future__ import annotations

import ctypes
import sys
import threading

SMALLEST = 64 * 2**20
"""Bytes from which it is worth it."""
PAGE = 2 * 2**20
HUGEPAGE, COLLAPSE = 14, 25
"""Linux's advice for memory: large pages from now on, and (from Linux 6.1 on) for what is there already."""


def large_pages(address: int, size: int) -> threading.Thread | None:
    """Asks Linux for large pages under so many bytes, in the background; None where that is of no use.

    A system that has none to give refuses, and all stays as it is. The memory may be read, written and freed meanwhile.
    """
    if sys.platform != "linux" or size < SMALLEST:
        return None
    first = -(-address // PAGE) * PAGE
    thread = threading.Thread(target=_advise, args=(first, (address + size - first) // PAGE * PAGE), daemon=True)
    thread.start()
    return thread


def _advise(address: int, size: int) -> None:
    madvise = ctypes.CDLL(None).madvise
    for advice in (HUGEPAGE, COLLAPSE):
        madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_int(advice))
