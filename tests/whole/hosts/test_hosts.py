"""Every kind of host trains to its end, grows where it can, says where it cannot, and is rebuilt from what was saved with torch alone."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.whole.hosts.table import KINDS, row_of

_LAST = "its outputs are the model's own"
_TWICE = "one pass calls it 2 times"
_BYPASSED = "the module around it reads its weights without calling it (MultiheadAttention, TransformerEncoderLayer)"
_ENCODERS = [f"encoder.layers.{layer}.{name}" for layer in (0, 1) for name in ("self_attn.out_proj", "linear1", "linear2")]


@dataclass(frozen=True)
class Expected:
    """What a host's row says: its sites, what is passed over, what the refusal says, and whether something has to grow."""

    sites: tuple[str, ...]
    passed_over: dict[str, str] = field(default_factory=lambda: {"head": _LAST})
    refused: str | None = None
    grows: bool = False


EXPECTED = {
    "gru": Expected(("embed", "hidden")),
    "transformer": Expected(("embed",), {"head": _LAST, **dict.fromkeys(_ENCODERS, _BYPASSED)}),
    "resnet": Expected(("stem", "conv1", "conv2"), {"fc": _LAST}),
    "shared": Expected(("entry",), {"left": _TWICE, "head": _LAST}),
    "called twice": Expected(("entry",), {"step": "one pass calls it 3 times", "head": _LAST}),
    "functional": Expected(("entry",), {"middle": "its weight is read without calling it (F.linear(x, layer.weight))", "head": _LAST}),
    "frozen backbone": Expected(("backbone.0", "backbone.3"), grows=True),
    "conv1d": Expected(("body.0", "body.2"), grows=True),
    "torch.jit": Expected((), {}, "got a torch.jit script, whose layers cannot be changed: give the model that was scripted; grow=None "),
    "compiled": Expected(("0", "2"), {"4": _LAST}, grows=True),
    "lstm": Expected(("embed", "hidden")),
    "unet": Expected(("first", "down"), {"last": _LAST}),
    "embedding bag": Expected(("hidden",)),
    "control flow": Expected(("entry", "low"), {"high": "a pass does not call it", "head": _LAST}),
    "data parallel": Expected(("0", "2"), {"4": _LAST}, grows=True),
    "mixed dtypes": Expected(("entry", "exact")),
    "autoencoder": Expected(("encode.0", "encode.2", "decode.0"), {"decode.2": _LAST}),
    "depthwise": Expected(("stem", "depth", "point")),
    "tied language model": Expected(("mix", "feed")),
    "attention": Expected(("query", "key", "value", "mix")),
    "siamese": Expected(("join",), {"tower.0": _TWICE, "tower.2": _TWICE, "head": _LAST}),
    "experts": Expected(("entry", "gate", "experts.0", "experts.1", "experts.2")),
}


def test_every_kind_of_host_has_its_row() -> None:
    assert EXPECTED.keys() == KINDS.keys()


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", KINDS)
def test_a_host_grows_where_it_can_says_where_not_and_comes_back_whole(name: str, tmp_path: Path) -> None:
    expected, row = EXPECTED[name], row_of(name, tmp_path)
    assert row.unequal is None
    assert (row.sites, dict(row.passed_over)) == (expected.sites, expected.passed_over)
    assert (row.refused is None) is (expected.refused is None)
    assert (expected.refused or "") in (row.refused or "")
    assert not expected.grows or any(words.startswith("fossilized") for words in row.grew)
