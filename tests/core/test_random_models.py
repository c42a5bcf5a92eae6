"""Random models against the oracle: each case is equal, or refused with a remedy.

The verdicts by feature are printed by ``python tests/core/verdicts.py FIRST LAST``.
"""

from __future__ import annotations

import pytest
from random_models import case
from verdicts import EQUAL, REFUSED, table, verdict

FAST, ALL, EACH = 60, 1000, 20


def judge(first: int, last: int) -> None:
    done = [(case(number), verdict(case(number))) for number in range(first, last)]
    assert all(kind in (EQUAL, REFUSED) for _, (kind, _) in done), "\n" + table(done)


@pytest.mark.parametrize("first", range(0, FAST, EACH // 2))
def test_cases_of_each_family(first: int) -> None:
    judge(first, first + EACH // 2)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(FAST, ALL, EACH))
def test_a_thousand_cases(first: int) -> None:
    judge(first, first + EACH)
