"""What docs/peers.md says of other libraries, measured on those that are installed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from peer_claims.claim import Figures, Peer
from peer_claims.suite import CLAIMS, main

PAGE = " ".join((Path(__file__).parents[1] / "docs" / "peers.md").read_text(encoding="utf-8").split())
# The peers warn, and learn2learn's parts of Lightning tell of what they lack.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (claim.processes > 1)) for name, claim in CLAIMS.items()]
)
def test_a_claim_holds(name: str) -> None:
    claim = CLAIMS[name]
    if missing := claim.missing():
        pytest.skip(missing)
    if claim.installed() != claim.peer.version:
        pytest.skip(f"it is about {claim.peer.name} {claim.peer.version}, and {claim.installed()} is installed")
    figures = claim.figures()
    assert claim.holds(figures), figures


def test_the_page_has_every_claim_and_no_other() -> None:
    assert {*re.findall(r"\(`([a-z0-9-]+)`\)", PAGE)} == {*CLAIMS}
    for claim in CLAIMS.values():
        assert f"{claim.peer.name.removesuffix('-ml').lower()} {claim.peer.version}" in PAGE.lower()


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that need nothing, of which one does not hold, and one whose library is nowhere."""
    here, nowhere = Peer("torch", "1", "torch", "pip install torch"), Peer("gone", "1", "gone", "pip install gone==1")

    @here.claim(lambda figures: figures["dtype"] == 64)
    def right() -> Figures:
        """It is measured in float64."""
        return {"dtype": float(torch.finfo(torch.get_default_dtype()).bits)}

    @here.claim(lambda figures: False)
    def wrong() -> Figures:
        """Nothing is as it is said."""
        return {"drawn": float(torch.rand(())), "also": float(np.random.rand())}  # noqa: NPY002

    @nowhere.claim(lambda figures: True)
    def not_there() -> Figures:
        """It is not there."""
        raise AssertionError

    monkeypatch.setattr("peer_claims.suite.CLAIMS", here.claims | nowhere.claims)


@pytest.mark.usefixtures("claims")
def test_the_command_tells_what_does_not_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["right"]) == 0
    assert re.search(
        r"right \(torch .*, measured of 1\): holds\n    It is measured in float64\.\n    dtype 64\n", _said(capsys)
    )
    assert main([]) == 1
    said = _said(capsys)
    assert "wrong (torch" in said
    assert "DOES NOT HOLD" in said
    assert "not-there: left out, ModuleNotFoundError: No module named 'gone'; pip install gone==1" in said
    assert main(["wrong"]) == 1
    assert said.partition("drawn")[2].partition("\n")[0] in _said(capsys)  # the same numbers again
    assert main(["--list"]) == 0
    assert _said(capsys).split("\n")[0].split() == ["right", "It", "is", "measured", "in", "float64."]
    with pytest.raises(SystemExit):
        main(["rihgt"])
    assert "CLAIM: there is no rihgt; --list prints those that there are" in capsys.readouterr().err


@pytest.mark.usefixtures("claims")
def test_a_claim_leaves_the_generators_and_the_precision(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    main(["wrong"])
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_default_dtype() == torch.float32


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out
