"""Random models under random methods against the oracle: each case is equal, or refused with a remedy.

The verdicts by outer gradient are printed by ``python tests/core/method_verdicts.py FIRST LAST``.
"""

from __future__ import annotations

import pytest
from method_verdicts import method_verdict
from random_methods import method_case
from verdicts import EQUAL, REFUSED, table

FAST, ALL, EACH = 8, 500, 20


def judge(first: int, last: int) -> None:
    done = [(case, method_verdict(case)) for case in map(method_case, range(first, last))]
    assert all(kind in (EQUAL, REFUSED) for _, (kind, _) in done), "\n" + table(done, lambda case: case.outer)


def test_a_few_cases() -> None:
    judge(0, FAST)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(FAST, ALL, EACH))
def test_hundreds_of_cases(first: int) -> None:
    judge(first, min(first + EACH, ALL))
