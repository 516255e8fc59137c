"""POST /v1/completions with the official OpenAI client."""

import openai
import pytest

from conftest import MODEL


def test_raw_text(openai_client):
    options = {"model": MODEL, "prompt": "Once upon a", "max_tokens": 12, "temperature": 0}
    whole = openai_client.completions.create(**options)
    assert whole.choices[0].finish_reason in ("stop", "length")
    chunks = list(openai_client.completions.create(**options, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text


def test_stop(openai_client):
    answer = openai_client.completions.create(
        model=MODEL, prompt="1, 2, 3, 4, 5, 6,", max_tokens=40, temperature=0, stop=[","]
    )
    assert "," not in answer.choices[0].text


def test_several_prompts_are_refused(openai_client):
    with pytest.raises(openai.BadRequestError):
        openai_client.completions.create(model=MODEL, prompt=["a", "b"])
