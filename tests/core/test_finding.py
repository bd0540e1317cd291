"""Which file a workflow means: by name and hash, in order, and never a guess."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lora_core.errors import LoraFileError, StackError
from lora_core.files.finding import Found, Shelf, Undecided, Wanted, find, find_name
from lora_core.files.identity import FileHashes
from lora_core.stack.lock import Identified, locked_row
from lora_core.stack.rows import StackRow
from lora_core.stack.rows_json import parse_rows

A, B, C = (FileHashes(digit * 64, digit * 12) for digit in "abc")


@dataclass
class Folder:
    """Files by name with their hashes (None: never hashed) and sizes; counts what was looked at."""

    files: Mapping[str, FileHashes | None]
    sizes: Mapping[str, int] = field(default_factory=dict)
    seen: Mapping[str, frozenset[int]] = field(default_factory=dict)
    listed: int = 0

    def shelf(self) -> Shelf:
        def names() -> list[str]:
            self.listed += 1
            return sorted(self.files)

        return Shelf(
            names,
            lambda name: Path("/loras", name) if name in self.files else None,
            lambda path: self.files[self.name(path)],
            lambda sha256: self.seen.get(sha256, frozenset()),
            lambda path: self.sizes.get(self.name(path), 0),
        )

    @staticmethod
    def name(path: Path) -> str:
        return str(path.relative_to("/loras"))


def found(wanted: Wanted, files: Mapping[str, FileHashes | None]) -> Found:
    answer = find(wanted, Folder(files).shelf())
    assert isinstance(answer, Found)
    assert answer.path == Path("/loras", answer.name)
    return answer


def to_hash(wanted: Wanted, folder: Folder) -> set[str]:
    answer = find(wanted, folder.shelf())
    assert isinstance(answer, Undecided)
    return {Folder.name(path) for path in answer.paths}


def refused(wanted: Wanted, files: Mapping[str, FileHashes | None]) -> str:
    with pytest.raises(LoraFileError) as error:
        find(wanted, Folder(files).shelf())
    return str(error.value)


def wanting(name: str, hashes: FileHashes, **more) -> Wanted:
    return Wanted(name, hashes.sha256, hashes.autov3, **more)


def test_name_and_hash_agree_and_nothing_is_said_or_listed():
    folder = Folder({"x.safetensors": A, "y.safetensors": None})
    assert find(wanting("x.safetensors", A), folder.shelf()) == Found(
        "x.safetensors", Path("/loras/x.safetensors")
    )
    assert folder.listed == 0


def test_without_a_hash_the_name_alone_decides_and_no_hash_is_asked_for():
    assert found(Wanted("x.safetensors"), {"x.safetensors": None}).notes == ()
    assert "'y' not found" in refused(Wanted("y"), {"x.safetensors": None})


def test_a_renamed_file_is_found_by_its_hash_and_said():
    answer = found(wanting("x.safetensors", A), {"sub/y.safetensors": A, "x_old.safetensors": B})
    assert answer.name == "sub/y.safetensors"
    assert answer.notes == (
        "found by its hash as sub/y.safetensors; the workflow named x.safetensors",
    )


def test_the_same_file_elsewhere_goes_before_another_of_the_same_name():
    answer = found(wanting("x.safetensors", A), {"x.safetensors": B, "moved.safetensors": A})
    assert answer.name == "moved.safetensors"


def test_of_several_copies_the_one_of_the_same_base_name_is_taken():
    files = {"a.safetensors": A, "sub/x.safetensors": A, "z.safetensors": A, "x.pt": A}
    assert found(wanting("old/x.safetensors", A), files).name == "sub/x.safetensors"
    del files["sub/x.safetensors"]
    assert found(wanting("old/x.safetensors", A), files).name == "a.safetensors"


def test_edited_metadata_is_told_by_the_weights():
    edited = FileHashes(B.sha256, A.autov3)
    here = found(wanting("x.safetensors", A), {"x.safetensors": edited})
    assert here.notes == (
        f"its metadata was edited since; the weights are the same (AutoV3 {A.autov3})",
    )
    there = found(wanting("x.safetensors", A), {"y.safetensors": edited})
    assert there.notes == (
        "found by its weights (AutoV3) as y.safetensors; the workflow named x.safetensors",
    )


def test_the_same_file_goes_before_one_of_the_same_weights():
    files = {"a.safetensors": FileHashes(B.sha256, A.autov3), "b.safetensors": A}
    assert found(wanting("x.safetensors", A), files).name == "b.safetensors"


def test_files_without_weights_of_their_own_are_no_match_for_each_other():
    files = {"y.safetensors": FileHashes(B.sha256, None)}
    assert "not found" in refused(Wanted("x.safetensors", A.sha256), files)


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        (wanting("x.safetensors", A), ("sha256 " + A.sha256, "sha256 " + B.sha256)),
        (Wanted("x.safetensors", A.sha256), ("sha256 " + A.sha256, "sha256 " + B.sha256)),
        (Wanted("x.safetensors", None, A.autov3), ("AutoV3 aaaaaaaaaaaa", "AutoV3 bbbbbbbbbbbb")),
    ],
)
def test_another_file_of_the_same_name_is_refused_with_both_hashes(wanted, named):
    message = refused(wanted, {"x.safetensors": B, "y.safetensors": C})
    assert "'x.safetensors'" in message
    assert all(text in message for text in named)
    assert '"accept": true' in message


def test_accept_takes_the_file_under_the_name_and_says_so():
    files = {"x.safetensors": B, "moved.safetensors": A, "unknown.safetensors": None}
    answer = found(wanting("x.safetensors", A, accept=True), files)
    assert answer.name == "x.safetensors"
    (said,) = answer.notes
    assert "accepted as it is" in said
    assert A.sha256 in said
    assert B.sha256 in said


def test_accept_says_nothing_where_the_hash_agrees_and_finds_what_moved():
    assert found(wanting("x.safetensors", A, accept=True), {"x.safetensors": A}).notes == ()
    moved = found(wanting("x.safetensors", A, accept=True), {"y.safetensors": A})
    assert "found by its hash" in moved.notes[0]


def test_what_is_nowhere_is_named_with_its_hash_and_the_nearest_names():
    message = refused(
        wanting("my_stlye.safetensors", A), {"sub/my_style.safetensors": B, "cat.safetensors": C}
    )
    assert "LoRA 'my_stlye.safetensors' not found" in message
    assert f"sha256 {A.sha256}" in message
    assert "The nearest names: sub/my_style.safetensors." in message
    assert "the loras folder is empty" in refused(wanting("x", A), {})


@pytest.mark.parametrize(
    "name",
    ["../x", "sub/../../x", "..\\x", "/x.safetensors", "\\x", "C:\\x.safetensors", "c:x", "a/../x"],
)
@pytest.mark.parametrize("hashes", [None, A])
def test_names_that_leave_the_folders_are_refused_whatever_their_hash(name, hashes):
    wanted = Wanted(name) if hashes is None else wanting(name, hashes)
    assert "points outside the loras folders" in refused(wanted, {"x.safetensors": A})


@pytest.mark.parametrize(
    "name", ["sub/x.safetensors", "sub\\x.safetensors", "sub/x", "sub\\x", "./sub//x"]
)
def test_separators_of_other_systems_and_a_missing_extension_are_understood(name):
    answer = found(Wanted(name), {"sub/x.safetensors": None})
    assert (answer.name, answer.notes) == ("sub/x.safetensors", ())


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("sub/x.safetensors", "x.safetensors"),
        ("x.safetensors", "sub/x.safetensors"),
        ("x", "sub/x.safetensors"),
        ("models\\loras\\sub\\x", "sub/x.safetensors"),
        ("sub/x.safetensors", "deep/sub/x.safetensors"),
    ],
)
def test_a_folder_in_front_that_came_or_went_is_understood_and_said(name, listed):
    for wanted in (Wanted(name), wanting(name, A)):
        answer = found(wanted, {listed: A, "y.safetensors": B})
        assert answer == Found(
            listed, Path("/loras", listed), (f"found as {listed}; the workflow named {name}",)
        )


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("x.safetensors", ["a/x.safetensors", "b/x.safetensors"]),
        ("a/x.safetensors", ["b/x.safetensors"]),
        ("x", ["a/x.safetensors", "b/x"]),
        ("style", ["my_style.safetensors", "style2.safetensors"]),
        ("my_style.safetensors", ["style.safetensors"]),
        ("X.safetensors", ["x.safetensors"]),
        ("", ["x.safetensors"]),
        (".", ["x.safetensors"]),
        ("x\0", ["x.safetensors"]),
    ],
)
def test_there_is_no_guess(name, files):
    assert "not found" in refused(Wanted(name), dict.fromkeys(files))


def test_in_another_folder_the_hash_must_agree():
    message = refused(wanting("sub/x.safetensors", A), {"x.safetensors": B})
    assert "not found" in message
    assert "The nearest names: x.safetensors" in message
    message = refused(wanting("sub/x.safetensors", A, accept=True), {"x.safetensors": B})
    assert "not found" in message


def test_the_file_of_the_name_is_hashed_first_and_alone():
    folder = Folder({"x.safetensors": None, "y.safetensors": None})
    assert to_hash(wanting("x.safetensors", A), folder) == {"x.safetensors"}
    answer = find(wanting("x.safetensors", A), folder.shelf())
    assert isinstance(answer, Undecided)
    assert answer.named == Path("/loras/x.safetensors")


def test_what_the_index_knows_spares_the_hashing():
    folder = Folder({"y.safetensors": None, "z.safetensors": A})
    answer = find(wanting("x.safetensors", A), folder.shelf())
    assert isinstance(answer, Found)


def test_all_that_were_never_hashed_are_to_be_looked_into_where_no_size_is_known():
    folder = Folder(
        {"y.safetensors": None, "z.safetensors": None, "w.safetensors": B, "v.pt": None}
    )
    assert to_hash(wanting("x.safetensors", A), folder) == {"y.safetensors", "z.safetensors"}
    replaced = Folder({"x.safetensors": B, "y.safetensors": None})
    answer = find(wanting("x.safetensors", A), replaced.shelf())
    assert answer == Undecided((Path("/loras/y.safetensors"),), Path("/loras/x.safetensors"))


def test_where_the_size_is_known_only_files_of_that_size_are_hashed():
    folder = Folder(
        {"y.safetensors": None, "z.safetensors": None},
        sizes={"y.safetensors": 10, "z.safetensors": 20},
        seen={A.sha256: frozenset({20})},
    )
    wanted = Wanted("x.safetensors", A.sha256)
    assert to_hash(wanted, folder) == {"z.safetensors"}
    folder.files = {"y.safetensors": None, "z.safetensors": B}
    with pytest.raises(LoraFileError, match="not found"):
        find(wanted, folder.shelf())
    # Edited metadata changes the size: with an AutoV3 the rest is looked into after all.
    assert to_hash(wanting("x.safetensors", A), folder) == {"y.safetensors"}


def test_the_size_that_a_workflow_stored_spares_hashing_too():
    folder = Folder(
        {"y.safetensors": None, "z.safetensors": None},
        sizes={"y.safetensors": 10, "z.safetensors": 20},
    )
    assert to_hash(wanting("x.safetensors", A, size=20), folder) == {"z.safetensors"}
    assert to_hash(wanting("x.safetensors", A, size=30), folder) == {
        "y.safetensors",
        "z.safetensors",
    }


def test_what_is_nowhere_is_said_with_what_to_search_for():
    message = refused(wanting("x.safetensors", A, size=12345), {"y.safetensors": B})
    assert (
        "To get the very file (12,345 bytes): search civitai.com or the web for its hash" in message
    )
    assert "(AAAAAAAAAA or AAAAAAAAAAAA)" in message
    assert "search" not in refused(Wanted("x.safetensors"), {"y.safetensors": B})


def test_a_name_that_may_be_two_files_is_refused_with_both_and_told_by_its_hash():
    files = {"b/x.safetensors": A, "a/x.safetensors": B}
    assert "'x' may be a/x.safetensors or b/x.safetensors" in refused(Wanted("x"), files)
    assert found(wanting("x", A), files).name == "b/x.safetensors"


def test_by_name_alone_the_hash_of_no_file_matters():
    shelf = Folder({"x.safetensors": B}).shelf()
    assert find_name("x", shelf).name == "x.safetensors"


def test_rows_carry_hashes_in_lower_case_and_the_switch():
    (row,) = parse_rows(
        f'[{{"lora": "x", "sha256": "0x{"AB" * 32}", "autov3": "{"CD" * 32}", "accept": true}}]'
    ).rows
    assert (row.sha256, row.autov3, row.accept) == ("ab" * 32, "cd" * 6, True)
    (row,) = parse_rows(f'[{{"lora": "x", "sha256": "{"a" * 64}", "size": 7}}]').rows
    assert row.size == 7
    (row,) = parse_rows('[{"lora": "x", "sha256": "", "autov3": null}]').rows
    assert (row.sha256, row.autov3, row.accept) == (None, None, False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('"sha256": "abc"', "Row 1: 'x': sha256 is 'abc'; it must be 64 hexadecimal digits"),
        ('"sha256": 5', "Row 1: 'x': sha256 is 5"),
        ('"autov3": "xyz"', "Row 1: 'x': autov3 is 'xyz'; it must be 12 hexadecimal digits"),
        ('"accept": "yes"', "Row 1: 'x': 'accept' must be true or false; found 'yes'"),
        ('"accept": 1', "'accept' must be true or false"),
        ('"size": -1', "'x': size is -1; it must be the file's size in bytes"),
        ('"size": true', "'x': size is True"),
    ],
)
def test_hashes_that_are_none_are_refused_with_row_and_field(fields, message):
    with pytest.raises(StackError) as error:
        parse_rows(f'[{{"lora": "x", {fields}}}]')
    assert message in str(error.value)


def test_a_lock_gives_a_row_its_hashes_back():
    lock = Identified(StackRow("sub\\x.safetensors"), "sub/x.safetensors", A, "SDXL").lock()
    row = locked_row("sub/x.safetensors", 0.8, 0.5, lock)
    assert row == StackRow("sub/x.safetensors", 0.8, 0.5, sha256=A.sha256, autov3=A.autov3)


def test_a_lock_keeps_the_size_where_it_is_known():
    lock = Identified(StackRow("x.safetensors"), "x.safetensors", A, None, 99).lock()
    assert locked_row("x.safetensors", 1.0, 1.0, lock).size == 99


def test_a_lock_that_was_written_for_another_name_says_nothing():
    lock = Identified(StackRow("x.safetensors"), "x.safetensors", A, None).lock()
    assert locked_row("y.safetensors", 1.0, 1.0, lock) == StackRow("y.safetensors")


@pytest.mark.parametrize("lock", ["", "  ", "{}"])
def test_an_empty_lock_locks_nothing(lock):
    assert locked_row("x", 1.0, 1.0, lock) == StackRow("x")


@pytest.mark.parametrize(
    ("lock", "message"),
    [
        ("{sha", "lora_lock is not JSON"),
        ("[" * 100_000, "lora_lock is not JSON"),
        ("[]", "must be a JSON object"),
        ('{"sha265": ""}', "unknown field 'sha265'"),
        ('{"sha256": "abc"}', "sha256 is 'abc'"),
        ('{"name": 3}', "a LoRA that is no text"),
    ],
)
def test_a_lock_that_makes_no_sense_is_refused(lock, message):
    with pytest.raises(StackError) as error:
        locked_row("x", 1.0, 1.0, lock)
    assert message in str(error.value)
