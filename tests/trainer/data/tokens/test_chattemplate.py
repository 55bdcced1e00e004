from __future__ import annotations

import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from galore.trainer.common.errors import UserError
from galore.trainer.data.text.conversation import Conversation
from galore.trainer.data.text.quality import BadRow
from galore.trainer.data.tokens import rehearsal
from galore.trainer.data.tokens.chattemplate import PLAIN, ensure_template, render, with_stopped_clock

HI = Conversation([{"role": "user", "content": "Hi"}])
LLAMA = "{% if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }}"


@pytest.fixture
def chatml(chat_tokenizer: Path) -> Any:
    return AutoTokenizer.from_pretrained(chat_tokenizer)


def test_a_tokenizer_without_a_template_gets_the_plain_one(chatml: Any) -> None:
    chatml.chat_template = None
    ensure_template(chatml)
    assert chatml.chat_template == PLAIN
    assert render(chatml, HI, prompt=True) == "### User:\nHi\n\n### Assistant:\n"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (LLAMA, "26 Jul 2024"),
        ("\n  {% set form = '%Y-%m-%d' %}\n{{ 'Today: ' + strftime_now(form) | trim }}!", "\nToday: 2024-07-26!"),
        (
            "{% macro day() %}{{ strftime_now('%-d. %B, %H:%M:%S.%f') }}{% endmacro %}{{ day() }}",
            "26. July, 00:00:00.000000",
        ),
    ],
)
def test_the_clock_stands_still_in_the_text_of_the_template(
    chatml: Any, template: str, text: str, tmp_path: Path
) -> None:
    """So that who loads the run's or the export's tokenizer with nothing but transformers renders the same."""
    chatml.chat_template = template
    assert render(chatml, HI) == text
    ensure_template(chatml)
    assert with_stopped_clock(chatml.chat_template) == chatml.chat_template
    chatml.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.apply_chat_template(HI.messages, tokenize=False) == text


def test_a_template_without_a_clock_is_left_alone(chatml: Any) -> None:
    before = chatml.chat_template
    ensure_template(chatml)
    assert chatml.chat_template == before
    chatml.chat_template = {"default": before, "tool_use": LLAMA}
    ensure_template(chatml)
    assert chatml.chat_template == {"default": before, "tool_use": with_stopped_clock(LLAMA)}


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ messages[0]['content'][0]['text'] | upper + 1 }}", "TypeError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ 'no end' ", "unexpected end of template"),
        ("{{ raise_exception('\x1b[2J' + 'long ' * 1000) }}", r"\x1b[2Jlong long"),
    ],
)
def test_whatever_a_template_raises_makes_the_row_a_bad_one(chatml: Any, template: str, reason: str) -> None:
    chatml.chat_template = template
    with pytest.raises(BadRow) as caught:
        render(chatml, HI)
    assert caught.value.kind == "refused"
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"
DOUBLES = "{% set box = namespace(text='x') %}{% for i in range(60) %}{% set box.text = box.text + box.text %}{% endfor %}{{ box.text }}"


@pytest.mark.parametrize(
    ("template", "what"),
    [
        (LOOPS, "more than 1 seconds of computing"),
        (DOUBLES, "more than 1 (GiB of memory|seconds of computing)"),
        ("{{ 'x' * 10 ** 11 }}", "GiB of memory"),
        ("{% for i in range(99999) %}{{ 'x' * 10000 }}{% endfor %}", "writes more than 67,108,864 letters"),
    ],
)
def test_a_template_that_does_not_end_is_refused(
    chatml: Any, template: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = partial(rehearsal.beyond_limits, cpu_seconds=1)
    monkeypatch.setattr("galore.trainer.data.tokens.chattemplate.beyond_limits", limits)
    chatml.chat_template, started = template, time.perf_counter()
    with pytest.raises(UserError, match=what) as caught:
        render(chatml, HI)
    assert caught.value.exit_code == 2
    assert time.perf_counter() - started < 60


def test_a_template_that_writes_far_more_than_is_said_refuses_the_row(chatml: Any) -> None:
    """Many conversations are held at a time: what each may come to goes by what it says."""
    long = Conversation([{"role": "user", "content": "x" * 1_000_000}])
    assert len(render(chatml, long)) > 1_000_000
    chatml.chat_template = "{{ 'x' * 1000000 }}"
    with pytest.raises(BadRow, match="writes 1,000,000 letters for"):
        render(chatml, HI)


def test_a_template_is_rehearsed_once(chatml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    render(chatml, HI)

    def again(*arguments: Any) -> str:
        raise AssertionError(arguments)

    monkeypatch.setattr("galore.trainer.data.tokens.chattemplate.beyond_limits", again)
    assert render(chatml, HI) == "<|im_start|>user\nHi<|im_end|>\n"


def test_what_templates_of_transformers_may_use_passes_the_rehearsal() -> None:
    template = (
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{% generation %}{{ m.content | tojson(indent=2) }}"
        "{% endgeneration %}{% endfor %}{% set n = namespace(a=dict(b=1)) %}{{ strftime_now('%d') }}{{ eos_token }}"
    )
    variables = {"messages": HI.messages, "eos_token": "</s>"}
    assert rehearsal.rendered(template, variables) == '"Hi"%d</s>'


def test_a_template_that_crashes_the_interpreter_crashes_only_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run
    crash = ["/bin/sh", "-c", "kill -SEGV $$"]
    monkeypatch.setattr(subprocess, "run", lambda command, **options: run(crash, **options))
    assert rehearsal.beyond_limits("{{ 1 }}", {}) == "ends the process with SIGSEGV"
