from __future__ import annotations

from galore.trainer.data.text.holdout import Holdout, content_hash, is_held_out


def test_the_share_is_as_asked() -> None:
    held = sum(is_held_out(content_hash(f"text {i}"), 0.1) for i in range(20_000))
    assert abs(held - 2000) < 5 * (20_000 * 0.1 * 0.9) ** 0.5
    assert not any(is_held_out(content_hash(f"text {i}"), 0.0) for i in range(1000))


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    hashes = [content_hash(f"text {i}") for i in range(5000)]
    assert all(is_held_out(hashed, 0.2) for hashed in hashes if is_held_out(hashed, 0.05))


def test_white_space_around_a_copy_does_not_hide_it() -> None:
    assert content_hash("a copy") == content_hash("\n a copy \n")
    assert content_hash("a copy") != content_hash("a  copy")


def test_reserved_contents_are_dropped_and_counted() -> None:
    holdout = Holdout(None)
    holdout.reserve("held out")
    assert [holdout.side(text) for text in ("held out ", "other", "held out")] == [None, "train", None]
    assert holdout.num_dropped == 2
