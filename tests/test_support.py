"""The supported-operator page says what the rules say."""

from __future__ import annotations

from pathlib import Path

from vtaflow.frontend.converters import CONVERTERS
from vtaflow.schedules import TEMPLATES
from vtaflow.support import FUSED, page

PAGE = Path(__file__).parent.parent / "docs" / "operators.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run: python -m vtaflow.support > docs/operators.md"


def test_every_rule_has_a_sentence() -> None:
    assert all(template.accepts.__doc__ for template in TEMPLATES)


def test_rules_speak_of_operators_that_can_be_imported() -> None:
    named = {name for template in TEMPLATES for name in template.onnx_operators} | set(FUSED)
    assert named <= set(CONVERTERS)
