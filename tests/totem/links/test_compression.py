"""User packets compressed and decompressed, by each model."""

import lzma

import pytest

from tests.totem.links.nets import Net, config, packet
from totem.config import COMPRESSIONS
from totem.links.compression import MODELS, Unusable, compress, decompress
from totem.wire.knet import LARGEST_USER_DATA

DATA = bytes(range(256)) * 200


@pytest.mark.parametrize(
    ("model", "level"),
    [(model, level) for model, (low, high) in COMPRESSIONS.items() for level in range(low, high + 1)],
)
def test_each_level_can_be_read_again(model, level):
    smaller = compress(model, level, DATA)
    assert len(smaller) < len(DATA)
    assert decompress(MODELS[model], smaller) == DATA


def test_a_level_of_lzma_for_which_receivers_have_no_memory():
    with pytest.raises(Unusable, match=r"(?i)memory"):
        decompress(MODELS["lzma"], lzma.compress(DATA, preset=COMPRESSIONS["lzma"][1] + 2))


@pytest.mark.parametrize("model", COMPRESSIONS)
def test_more_than_a_packet_may_have(model):
    with pytest.raises(Unusable, match=f"more than {LARGEST_USER_DATA} bytes"):
        decompress(MODELS[model], compress(model, 1, bytes(LARGEST_USER_DATA + 1)))


@pytest.mark.parametrize("model", COMPRESSIONS)
def test_packets_of_a_node_that_compresses(model):
    net = Net(config(), configs={1: config(compression=model)}).start()
    net.run(3)
    net.send(1, 2, packet(5000))
    net.run(0.1)
    assert net.received[2] == [packet(5000, 2)]
    assert len(net.wire[-1][-1]) < 500
