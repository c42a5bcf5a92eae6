"""The claims in order, and the command that measures them."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence

import torch

from peer_claims.claim import Claim
from peer_claims.of_betty import BETTY
from peer_claims.of_easyfsl import EASYFSL
from peer_claims.of_higher import HIGHER
from peer_claims.of_learn2learn import LEARN2LEARN
from peer_claims.of_parallel_metalearn import PARALLEL_METALEARN
from peer_claims.of_torchopt import TORCHOPT

PEERS = (PARALLEL_METALEARN, LEARN2LEARN, HIGHER, TORCHOPT, BETTY, EASYFSL)
CLAIMS: dict[str, Claim] = {name: claim for peer in PEERS for name, claim in peer.claims.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the claims that are named, or all; the exit status is 1 where one does not hold."""
    parser = argparse.ArgumentParser(description="What is silently wrong in other libraries, measured.")
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help="all where none is named")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    typed = parser.parse_args(arguments)
    if unknown := [name for name in typed.claims if name not in CLAIMS]:
        parser.error(f"CLAIM: there is no {', '.join(unknown)}; --list prints those that there are")
    if typed.list:
        print("\n".join(f"{name:<34}{claim.says}" for name, claim in CLAIMS.items()))
        return 0
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the peers' own
    return max([_shown(name, CLAIMS[name]) for name in typed.claims or CLAIMS], default=0)


def _shown(name: str, claim: Claim) -> int:
    """Print what one claim comes to: 1 where it does not hold."""
    if missing := claim.missing():
        print(f"{name}: left out, {missing}")
        return 0
    figures = claim.figures()
    holds = claim.holds(figures)
    version = claim.installed()
    other = "" if version == claim.peer.version else f", measured of {claim.peer.version}"
    print(f"{name} ({claim.peer.name} {version}{other}): {'holds' if holds else 'DOES NOT HOLD'}")
    print(f"    {claim.says}")
    print("    " + "; ".join(f"{what} {value:.4g}" for what, value in figures.items()))
    return int(not holds)
