"""Where K/V of tree nodes live: what each storage answers, and that the ledger counts what is allocated."""

from __future__ import annotations

import pytest
from path_kv import path_ids, same, truth

from nbkv.models.caches.growing import GrowingCache
from nbkv.stores.buffers import BufferLedger, CompactCopy, PathBuffer, own_nbytes
from nbkv.stores.radix import RadixTree

IDS = tuple(range(200))
TOKEN = truth((0,), 0, 1).nbytes


def insert(tree, ledger, ids, buffer):
    """Keep ``ids`` in ``buffer``, as a request that has computed them does."""
    buffer.buffer.write(0, truth(ids, 0, len(ids)))
    ledger.lease(buffer)
    node = tree.insert(ids, buffer)
    buffer.nodes.add(node)
    ledger.release(buffer)
    return node


@pytest.fixture
def ledger():
    return BufferLedger()


@pytest.fixture
def tree(ledger):
    return RadixTree(ledger.split)


def holds(*nodes):
    return all(same(n.payload.read(n.start, n.stop), truth(path_ids(n), n.start, n.stop)) for n in nodes)


def counted(ledger):
    return ledger.nbytes == sum(storage.nbytes for storage in ledger)


def test_both_halves_of_a_split_node_live_in_its_buffer(tree, ledger):
    lower = insert(tree, ledger, IDS, PathBuffer(GrowingCache()))
    (upper,) = tree.match(IDS[:50])

    assert upper.payload is lower.payload
    assert upper.payload.nodes == {upper, lower}
    assert holds(upper, lower)
    assert counted(ledger)


def test_what_is_cut_off_is_copied_and_moves_back_when_a_buffer_holds_it_again(tree, ledger):
    buffer = PathBuffer(GrowingCache())
    tail = insert(tree, ledger, IDS, buffer)
    (head,) = tree.match(IDS[:50])
    assert ledger.cut(buffer, 50) == 150

    assert buffer.buffer.length == 50
    assert isinstance(tail.payload, CompactCopy)
    assert own_nbytes(tail) == 150 * TOKEN
    assert holds(head, tail)
    assert ledger.fill(buffer, [tail]) == 150
    assert tail.payload is buffer
    assert holds(head, tail)
    assert list(ledger) == [buffer]
    assert counted(ledger)


def test_each_half_of_a_split_copy_frees_its_own_memory(tree, ledger):
    buffer = PathBuffer(GrowingCache())
    lower = insert(tree, ledger, IDS, buffer)
    tree.match(IDS[:50])
    ledger.cut(buffer, 50)
    _, upper = tree.match(IDS[:120])

    assert holds(upper, lower)
    assert upper.payload is not lower.payload
    before = ledger.nbytes
    tree.remove(lower)
    ledger.remove(lower)
    assert before - ledger.nbytes == 80 * TOKEN
    assert holds(upper)


def test_a_buffer_shrinks_to_its_last_node_and_is_forgotten_with_it(tree, ledger):
    buffer = PathBuffer(GrowingCache())
    tail = insert(tree, ledger, IDS, buffer)
    (head,) = tree.match(IDS[:50])
    tree.remove(tail)
    ledger.remove(tail)

    assert buffer.buffer.length == 50
    assert ledger.nbytes == buffer.nbytes < len(IDS) * TOKEN
    tree.remove(head)
    ledger.remove(head)
    assert not list(ledger)
    assert ledger.nbytes == 0


def test_a_buffer_is_written_by_one_request_and_not_where_others_read(tree, ledger):
    buffer = PathBuffer(GrowingCache())
    node = insert(tree, ledger, IDS, buffer)
    assert buffer.appendable(node.stop) is buffer
    buffer.add_reader(120)
    buffer.add_reader(80)

    assert buffer.appendable(119) is None
    assert buffer.appendable(120) is buffer
    buffer.remove_reader(120)
    assert buffer.appendable(80) is buffer
    ledger.lease(buffer)
    assert buffer.appendable(node.stop) is None
    assert CompactCopy(node, truth(IDS, 0, 200)).appendable(node.stop) is None


def test_what_is_on_lease_is_asked_for_its_bytes(ledger):
    buffer = PathBuffer(GrowingCache())
    ledger.lease(buffer)
    buffer.buffer.write(0, truth(IDS, 0, 200))
    assert ledger.nbytes == buffer.nbytes >= 200 * TOKEN
    ledger.release(buffer)

    assert ledger.nbytes == 0  # no node lives there


def test_only_a_branch_shares_spans():
    buffer = GrowingCache()
    buffer.share(())
    with pytest.raises(ValueError, match="make a branch"):
        buffer.share([truth(IDS, 0, 10)])
