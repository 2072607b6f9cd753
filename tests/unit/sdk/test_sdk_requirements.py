from __future__ import annotations

from pathlib import Path

import pytest

from runyard.requirements import Place, parse_requirements, read_requirements
from runyard_contract.errors import RunyardError, SpecInvalid, Unsupported


def _read(tmp_path: Path, text: str) -> tuple[str, ...]:
    path = tmp_path / "requirements.txt"
    path.write_text(text)
    return read_requirements(path).lines


@pytest.mark.parametrize(
    "line",
    [
        "numpy",
        "scikit-learn==1.5.0",
        "torch>=2,<3",
        "torch >= 2.0 , != 2.1",
        "uvicorn[standard]~=0.30",
        'tomli==2.0; python_version < "3.11"',
        "pkg===1.0+local.1",
        "pkg (>=1.0)",
        "pkg @ https://example.org/pkg-1.0-py3-none-any.whl",
        "https://example.org/pkg-1.0.tar.gz",
        "git+https://github.com/org/pkg@v1#egg=pkg",
        "git+ssh://git@github.com/org/pkg",
        "pkg==1.0 --hash=sha256:0123abcd --hash=sha256:4567",
        "zope.interface==5.*",
    ],
)
def test_requirement_is_kept_as_written(line: str, tmp_path: Path) -> None:
    assert _read(tmp_path, line + "\n") == (line,)


def test_comments_blank_lines_and_continuations_are_joined(tmp_path: Path) -> None:
    text = "# head\n\nnumpy  # fast\ntorch>=2,\\\n  <3\n\tscipy\nnumpy\nx @ https://e.org/x#egg=x\n"

    assert _read(tmp_path, text) == ("numpy", "torch>=2,  <3", "scipy", "x @ https://e.org/x#egg=x")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_with_a_byte_order_mark_are_read(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("numpy\r\n", encoding=encoding)

    assert read_requirements(path).lines == ("numpy",)


def test_includes_are_read_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "requirements.txt").write_text("-r deep/base.txt\ntorch\n-c limits.txt\n")
    (tmp_path / "deep/base.txt").write_text("--requirement=more.txt\nnumpy\n-r ../requirements.txt")
    (tmp_path / "deep/more.txt").write_text("scipy")
    (tmp_path / "limits.txt").write_text("numpy<2\n-r more-limits.txt")
    (tmp_path / "more-limits.txt").write_text("scipy<2")

    found = read_requirements(tmp_path / "requirements.txt")

    assert found.lines == ("scipy", "numpy", "torch")
    assert found.constraints == ("numpy<2", "scipy<2")
    assert found.constraint_files == (
        str(tmp_path / "limits.txt"),
        str(tmp_path / "more-limits.txt"),
    )


def test_index_options_are_kept_apart_in_long_form(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text(
        "-i https://a.example/simple\n--extra-index-url=https://b.example/\n"
        "-f https://c.example/wheels\nnumpy\n--pre  # betas too\n--no-index\n--pre\n"
    )

    found = read_requirements(path)

    assert found.index_options == (
        "--index-url https://a.example/simple",
        "--extra-index-url https://b.example/",
        "--find-links https://c.example/wheels",
        "--pre",
        "--no-index",
    )
    assert found.lines == ("numpy",)


@pytest.mark.parametrize(
    "line",
    [
        "-e .",
        "--editable=./lib",
        ".",
        "./wheels/pkg.whl",
        "/opt/pkg",
        "~/pkg",
        "pkg-1.0-py3-none-any.whl",
        "lib/pkg",
        "file:///opt/pkg.whl",
        "pkg @ file:///opt/pkg.whl",
    ],
)
def test_what_is_on_this_machine_only_is_refused_by_line(line: str, tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid, match=r"requirements\.txt:2: .* is on this machine only"):
        _read(tmp_path, f"numpy\n{line}\n")


@pytest.mark.parametrize("folder", ["wheels", "./wheels", "{}/wheels", "file://{}/wheels"])
def test_folder_of_wheels_is_one_of_the_node(folder: str, tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text(f"--no-index\n-f {folder.format(tmp_path)}\nnumpy\n")

    options = read_requirements(path).index_options

    assert [*options] == ["--no-index", f"--find-links file://{tmp_path}/wheels"]


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://user:s3cret@pypi.example/simple",
        "--extra-index-url https://s3cret@pypi.example/simple",
        "git+https://s3cret@github.com/org/pkg",
        "pkg @ https://u:s3cret@example.org/x.whl",
        "git+ssh://git:s3cret@github.com/org/pkg",
    ],
)
def test_credentials_are_refused_and_not_repeated(line: str, tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid, match=r"requirements\.txt:1: .* credentials") as error:
        _read(tmp_path, line)

    assert "s3cret" not in str(error.value) + error.value.hint + str(error.value.metadata)


def test_variables_in_urls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid, match="has a variable in its URL"):
        _read(tmp_path, "-i https://${TOKEN}@pypi.example/simple")


@pytest.mark.parametrize(
    ("text", "error", "message", "hint"),
    [
        ("numpy\nnumpy=1.2", SpecInvalid, "requirements.txt:2: 'numpy=1.2' is not", "two equals"),
        ("a b c", SpecInvalid, "requirements.txt:1: 'a b c' is not a requirement", "name==1.2"),
        ("--no-deps", Unsupported, "txt:1: the pip option --no-deps is not served", "--pre"),
        ("--pre numpy", Unsupported, "txt:1: the pip option --pre is not served", "remove"),
        ("-r https://x.example/r.txt", Unsupported, "an include by URL", "download"),
        ("-r gone.txt", SpecInvalid, "requirements.txt:1: cannot read", ""),
    ],
)
def test_errors_name_file_and_line(
    text: str, error: type[RunyardError], message: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        _read(tmp_path, text)

    assert message in caught.value.message
    assert hint in caught.value.hint


def test_files_that_are_no_text_or_too_large_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary.txt").write_bytes(b"\x80\x81")
    (tmp_path / "large.txt").write_bytes(b"#" * ((1 << 20) + 1))

    with pytest.raises(SpecInvalid, match=r"binary\.txt is not a text file in UTF-8"):
        read_requirements(tmp_path / "binary.txt")
    with pytest.raises(SpecInvalid, match=r"large\.txt is larger than 1 MiB"):
        read_requirements(tmp_path / "large.txt")


def test_lines_from_elsewhere_carry_their_own_places(tmp_path: Path) -> None:
    lines = [(Place("env.yml", 7), "numpy"), (Place("env.yml", 8), "-e .")]

    with pytest.raises(SpecInvalid, match=r"^env\.yml:8: "):
        parse_requirements(lines, tmp_path)
