"""bench/sizes.py: rows go into the page's table, in the order that is declared, and nothing else of the page changes."""

from __future__ import annotations

import sizes

PAGE = "above\n\n{head}\n| llama-2-7b | 1 |\n| llama-2-70b | 2 |\n\nbelow\n\nfurther\n"


def test_a_row_takes_the_place_of_its_own_and_stands_in_order() -> None:
    page = sizes.with_row(PAGE.format(head=sizes.HEAD), "llama-2-70b", "| llama-2-70b | 3 |")
    page = sizes.with_row(page, "llama-33b", "| llama-33b | 4 |")
    rows = "| llama-2-7b | 1 |\n| llama-33b | 4 |\n| llama-2-70b | 3 |"
    assert page == f"above\n\n{sizes.HEAD}\n{rows}\n\nbelow\n\nfurther\n"


def test_rows_of_other_columns_are_dropped() -> None:
    old = "| model | parameters | AdamW |\n|---|---|---|"
    page = sizes.with_row(PAGE.format(head=old), "llama-33b", "| llama-33b | 4 |")
    assert page == f"above\n\n{sizes.HEAD}\n| llama-33b | 4 |\n\nbelow\n\nfurther\n"


def test_the_page_has_the_columns_and_no_row_that_is_not_declared() -> None:
    above, head, below = sizes.PAGE.read_text(encoding="utf-8").partition(sizes.HEAD)
    assert head
    names = [line.split("|")[1].strip() for line in below.partition("\n\n")[0].splitlines() if line]
    assert names == [name for name in sizes.ROWS if name in names]
    assert above.rstrip().endswith("measured on no card.")
