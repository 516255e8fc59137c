"""POST /v1/chat/completions with the official OpenAI client."""

import json

import openai
import pytest

from conftest import CONTEXT, MODEL

NO_THINKING = {"thinking": {"type": "disabled"}}
WRITE = {
    "type": "function",
    "function": {
        "name": "write",
        "description": "Write a file.",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
            "required": ["path", "content"],
        },
    },
}


def ask(client, text, **options):
    options.setdefault("extra_body", NO_THINKING)
    options.setdefault("temperature", 0)
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], **options)


def test_answer(openai_client):
    answer = ask(openai_client, "What is the capital of France?")
    assert answer.choices[0].message.content == "The capital of France is Paris."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == MODEL
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_stream(openai_client):
    chunks = list(
        ask(openai_client, "What is the capital of France?", stream=True, stream_options={"include_usage": True})
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "The capital of France is Paris."
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert sum(chunk.usage is not None for chunk in chunks) == 1
    assert chunks[-1].usage.completion_tokens > 0


def test_stream_helper(openai_client):
    messages = [{"role": "user", "content": "Reverse the word garden."}]
    with openai_client.chat.completions.stream(
        model=MODEL, messages=messages, temperature=0, extra_body=NO_THINKING
    ) as stream:
        kinds = {event.type for event in stream}
        completion = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert completion.choices[0].message.content == "nedrag"


def test_thinking(openai_client):
    answer = ask(openai_client, "What is 47 + 38?", extra_body={"thinking": {"type": "enabled"}}, seed=1)
    message = answer.choices[0].message
    assert message.reasoning_content and "47 + 38 = 85" in message.content
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0


def test_same_seed_same_answer(openai_client):
    story = [
        ask(openai_client, "Tell me a story.", temperature=1, seed=7, max_tokens=40).choices[0].message.content
        for _ in range(2)
    ]
    assert story[0] == story[1]


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_round_trip(openai_client, streamed):
    messages = [{"role": "user", "content": "create hello.txt containing hi"}]
    options = {"model": MODEL, "tools": [WRITE], "temperature": 0, "extra_body": NO_THINKING}
    if streamed:
        with openai_client.chat.completions.stream(messages=messages, **options) as stream:
            first = stream.get_final_completion()
    else:
        first = openai_client.chat.completions.create(messages=messages, **options)
    assert first.choices[0].finish_reason == "tool_calls"
    call = first.choices[0].message.tool_calls[0]
    assert (call.type, call.function.name) == ("function", "write")
    assert json.loads(call.function.arguments) == {"path": "hello.txt", "content": "hi"}
    messages.append(first.choices[0].message.to_dict())
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "ok"})
    second = openai_client.chat.completions.create(messages=messages, **options)
    assert second.choices[0].finish_reason == "stop"
    # The call is not computed again, though the client spelled it anew.
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.total_tokens - 1


def test_demanded_tool(openai_client):
    answer = ask(openai_client, "Hello!", tools=[WRITE], tool_choice="required", max_tokens=300)
    assert answer.choices[0].message.tool_calls[0].function.name == "write"


def test_logprobs(openai_client):
    answer = ask(openai_client, "Count from 3 to 12.", logprobs=True, top_logprobs=2)
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content
    assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in tokens)


def test_json(openai_client):
    answer = ask(openai_client, "Some json, please.", response_format={"type": "json_object"}, max_tokens=60)
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_bad_value(openai_client):
    with pytest.raises(openai.BadRequestError) as error:
        ask(openai_client, "x", temperature=3)
    assert error.value.param == "temperature"
    assert error.value.type == "invalid_request_error"


def test_too_long(openai_client):
    with pytest.raises(openai.BadRequestError) as error:
        ask(openai_client, "word " * 4 * CONTEXT)
    assert error.value.code == "context_length_exceeded"


def test_wrong_key(openai_client, server):
    if server.key == "none":
        pytest.skip("the server wants no key")
    with pytest.raises(openai.AuthenticationError):
        ask(openai_client.with_options(api_key="wrong"), "x")


def test_unknown_path(openai_client):
    with pytest.raises(openai.NotFoundError):
        openai_client.embeddings.create(model=MODEL, input="x")


def test_closed_stream_is_cancelled(openai_client, server):
    cancelled = 'ds4_requests_total{api="chat",outcome="cancelled"}'
    before = server.metric(cancelled)
    stream = ask(openai_client, "Tell me a story.", temperature=1, seed=3, stream=True, logit_bias={"1": -100})
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            break
    stream.close()
    server.wait_for(cancelled, before + 1)
    assert ask(openai_client, "What is 7 times 8?").choices[0].message.content == "7 * 8 = 56"
