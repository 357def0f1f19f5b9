"""The tables are written into the document, and nothing else of it is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import report
from bench.measure import Sample
from bench.report import Line

TEXT = """\
before
<!-- bench: begin -->
old
<!-- bench: end -->
between
<!-- profile: begin -->
<!-- profile: end -->
after
"""


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "performance.md"
    path.write_text(TEXT)
    monkeypatch.setattr(report, "DOCUMENT", path)
    return path


def test_a_section_is_replaced_and_the_rest_stays(document: Path) -> None:
    report.put("bench", "new")
    assert document.read_text() == TEXT.replace("old", "new")


def test_a_document_without_the_section_is_left_as_it_is(document: Path) -> None:
    with pytest.raises(ValueError, match="no section load"):
        report.put("load", "new")
    assert document.read_text() == TEXT


def test_figures_are_written_with_what_they_are_of(document: Path) -> None:
    report.write([Line("transfer", "unary", Sample(1234.5, 1.25, 20.0), "twice that")], 3, "python -m bench")
    text = document.read_text()
    assert "| transfer | unary | 1,234 | 1.2 | 20.0 | twice that |" in text
    assert "medians of 3 interleaved runs" in text
    assert "`python -m bench`" in text
