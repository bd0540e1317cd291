"""Marks that tie rows to conditionings."""

from __future__ import annotations

import pytest

from lora_core.errors import StackError
from lora_core.stack.interop import StackList, read_lora_stack
from lora_core.stack.regionrows import REGIONS, marked, with_region
from lora_core.stack.rows import LoraStack, StackRow

STACK = LoraStack((StackRow("a"), StackRow("b", regions=("old",))))


def test_a_mark_goes_onto_one_row_or_all_beside_those_that_are_there():
    assert [row.regions for row in with_region(STACK, "m", 2).rows] == [(), ("old", "m")]
    assert [row.regions for row in with_region(STACK, "m").rows] == [("m",), ("old", "m")]
    with pytest.raises(StackError, match="Row 3 is not there"):
        with_region(STACK, "m", 3)


def test_a_conditioning_gets_the_mark_in_a_copy():
    given = [["text", {"pooled_output": 1, REGIONS: ("old",)}], ["more", {}]]
    found = marked(given, "m", {"mask_strength": 0.5})
    assert found == [
        ["text", {"pooled_output": 1, "mask_strength": 0.5, REGIONS: ("old", "m")}],
        ["more", {"mask_strength": 0.5, REGIONS: ("m",)}],
    ]
    assert given[1] == ["more", {}]


def test_another_pack_that_drops_regions_is_noticed():
    sent = StackList(with_region(STACK, "m"), ["a", "b"])
    assert read_lora_stack(sent).rows[0].regions == ("m",)
    (note,) = read_lora_stack(list(sent)).notes
    assert "regions" in note
