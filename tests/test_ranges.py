import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import TooLarge
from tasks.core.ranges import MAX_SCALE_BYTES, ByteRange, Pieces, check_scale_size, plan_ranges
from tasks.core.records import TensorSpec


def spec(start, stop, name="t"):
    return TensorSpec(name, "U8", (stop - start,), start, stop)


specs = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 300)).map(lambda at: spec(at[0], at[0] + at[1])), max_size=12
)


def test_neighbours_within_the_gap_share_a_range_and_distant_ones_do_not():
    planned = plan_ranges([spec(0, 10), spec(15, 20), spec(1000, 1010)], gap_bytes=5)
    assert planned == (ByteRange(0, 20), ByteRange(1000, 1010))


def test_a_range_is_not_merged_past_the_cap():
    assert plan_ranges([spec(0, 60), spec(60, 120)], gap_bytes=10, cap_bytes=100) == (
        ByteRange(0, 60),
        ByteRange(60, 120),
    )


@given(specs, st.integers(0, 500), st.integers(1, 2000))
def test_every_tensor_lies_whole_in_some_range_and_nothing_is_read_for_no_tensor(wanted, gap, cap):
    planned = plan_ranges(wanted, gap, cap)
    assert list(planned) == sorted(planned, key=lambda r: r.start)
    for tensor in wanted:
        if tensor.stop_byte > tensor.start_byte:
            assert any(r.start <= tensor.start_byte and tensor.stop_byte <= r.stop for r in planned)
    for piece in planned:
        inside = [t for t in wanted if piece.start <= t.start_byte and t.stop_byte <= piece.stop]
        assert min(t.start_byte for t in inside) == piece.start
        assert max(t.stop_byte for t in inside) == piece.stop
        assert piece.stop - piece.start <= max(cap, *(t.stop_byte - t.start_byte for t in inside))


@given(specs, st.integers(0, 500))
def test_what_was_planned_and_read_gives_each_tensor_its_bytes(wanted, gap):
    file = bytes(i % 251 for i in range(6000))
    pieces = Pieces()
    for piece in plan_ranges(wanted, gap):
        pieces.add(piece.start, file[piece.start : piece.stop])
    for tensor in wanted:
        if tensor.stop_byte > tensor.start_byte:
            assert pieces.cut(tensor) == file[tensor.start_byte : tensor.stop_byte]


def test_a_piece_that_came_short_does_not_serve_a_tensor_beyond_it():
    pieces = Pieces()
    pieces.add(0, b"12345")
    assert pieces.cut(spec(0, 10)) is None


def test_of_pieces_that_overlap_any_serves_that_holds_the_tensor_whole():
    file = bytes(range(100))
    pieces = Pieces()
    for start, stop in ((0, 60), (20, 30), (40, 100)):
        pieces.add(start, file[start:stop])
    assert pieces.cut(spec(25, 50)) == file[25:50]
    assert pieces.cut(spec(45, 99)) == file[45:99]
    assert pieces.cut(spec(30, 70)) is None


def test_a_norm_of_ten_gigabytes_is_not_read():
    check_scale_size(spec(0, MAX_SCALE_BYTES), "org/name")
    with pytest.raises(TooLarge, match=r"org/name: t has 10,000,000,000 bytes"):
        check_scale_size(spec(0, 10**10), "org/name")
