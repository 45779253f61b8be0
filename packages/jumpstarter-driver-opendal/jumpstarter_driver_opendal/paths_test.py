import os

import pytest

from .paths import OutsideRoot, confine, is_partial, normalize


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("a", "a"),
        ("/a", "a"),
        ("//a//b", "a/b"),
        ("a/./b", "a/b"),
        ("./a", "a"),
        ("a/../b", "b"),
        ("a\\b", "a/b"),
        ("a/", "a/"),
        ("a/.", "a/"),
        ("a/b/..", "a/"),
        ("", ""),
        ("/", ""),
        (".", ""),
        ("..a", "..a"),
        ("a..", "a.."),
    ],
)
def test_a_path_is_brought_to_one_form(path, normal):
    assert normalize(path) == normal


@pytest.mark.parametrize("path", ["..", "../a", "/..", "a/../..", "a/../../b", "..\\a"])
def test_dots_that_lead_out_of_the_root_are_refused(path):
    with pytest.raises(OutsideRoot, match="leads out of the storage's root"):
        normalize(path)


def test_a_nul_character_is_refused():
    with pytest.raises(ValueError, match="NUL"):
        normalize("a\0b")


def test_a_link_that_stays_inside_is_followed(tmp_path):
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to("real")
    assert confine(tmp_path, "link") == os.path.realpath(tmp_path / "real")


@pytest.mark.parametrize("target", ["/etc", ".."])
def test_a_link_that_leads_out_is_refused(tmp_path, target):
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(target)
    with pytest.raises(OutsideRoot):
        confine(root, "out/passwd")


def test_a_neighbour_whose_name_begins_like_the_root_is_outside(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root2").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "root2")
    with pytest.raises(OutsideRoot):
        confine(tmp_path / "root", "link")


def test_the_file_system_root_can_be_the_root():
    assert confine("/", "etc") == "/etc"


def test_a_root_behind_a_link_is_the_place_the_link_points_to(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to("real")
    assert confine(tmp_path / "root", "a") == os.path.realpath(tmp_path / "real" / "a")


@pytest.mark.parametrize(
    ("path", "partial"), [("a/.b.1f.jmp-part", True), (".b.jmp-part/c", True), ("a.jmp-part.txt", False), ("a", False)]
)
def test_uploads_in_progress_are_told_by_their_name(path, partial):
    assert is_partial(path) is partial
