"""POST /v1/responses and the responses that are kept, with the official OpenAI client."""

import json
import re

import openai
import pytest
from pydantic import BaseModel

from conftest import CONTEXT, MODEL

WRITE = {
    "type": "function",
    "name": "write",
    "description": "Write a file.",
    "parameters": {
        "type": "object",
        "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
        "required": ["path", "content"],
    },
    "strict": False,
}


class Person(BaseModel):
    """A form that every answer of this kind can take, however small the model."""

    name: str
    is_adult: bool


def ask(client, asked, **options):
    options.setdefault("reasoning", {"effort": "none"})
    options.setdefault("temperature", 0)
    return client.responses.create(model=MODEL, input=asked, **options)


def test_answer(openai_client):
    answer = ask(openai_client, "What is the capital of France?", metadata={"a": "b"})
    assert answer.output_text == "The capital of France is Paris."
    assert (answer.status, answer.model, answer.metadata) == ("completed", MODEL, {"a": "b"})
    assert answer.output[0].phase == "final_answer"
    usage = answer.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.input_tokens_details.cache_write_tokens == usage.input_tokens - usage.input_tokens_details.cached_tokens


def test_stream(openai_client):
    events = list(ask(openai_client, "What is the capital of France?", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:3]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
    ]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == text == "The capital of France is Paris."
    assert last.response.usage.output_tokens > 0


def test_stream_helper(openai_client):
    with openai_client.responses.stream(
        model=MODEL, input="Reverse the word garden.", temperature=0, reasoning={"effort": "none"}
    ) as stream:
        kinds = {event.type for event in stream}
        response = stream.get_final_response()
    assert {"response.created", "response.output_text.delta", "response.completed"} <= kinds
    assert response.output_text == "nedrag"


def test_instructions_and_developer_messages(openai_client):
    items = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "What is 7 times 8?"}]
    answer = ask(openai_client, items, instructions="You are helpful.")
    assert answer.output_text and answer.instructions == "You are helpful."


def test_thinking_with_summary(openai_client):
    options = {"reasoning": {"effort": "high", "summary": "auto"}, "include": ["reasoning.encrypted_content"]}
    with openai_client.responses.stream(model=MODEL, input="What is 47 + 38?", **options) as stream:
        summary = "".join(event.delta for event in stream if event.type == "response.reasoning_summary_text.delta")
        response = stream.get_final_response()
    reasoning = response.output[0]
    assert reasoning.type == "reasoning" and reasoning.encrypted_content
    assert reasoning.summary[0].text == reasoning.content[0].text == summary
    assert "85" in response.output_text
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    # Sent back in full, nothing is computed again.
    items = [{"role": "user", "content": "What is 47 + 38?"}, *response.output, {"role": "user", "content": "Thanks."}]
    again = ask(openai_client, items, reasoning=options["reasoning"], max_output_tokens=20)
    assert again.usage.input_tokens_details.cached_tokens >= response.usage.total_tokens - 1


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_round_trip(openai_client, streamed):
    items = [{"role": "user", "content": "create hello.txt containing hi"}]
    options = {"model": MODEL, "tools": [WRITE], "temperature": 0, "reasoning": {"effort": "none"}}
    if streamed:
        with openai_client.responses.stream(input=items, **options) as stream:
            first = stream.get_final_response()
    else:
        first = openai_client.responses.create(input=items, **options)
    call = first.output[-1]
    assert (first.status, call.type, call.name, call.status) == ("completed", "function_call", "write", "completed")
    assert json.loads(call.arguments) == {"path": "hello.txt", "content": "hi"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "ok"}
    second = openai_client.responses.create(input=[*items, *first.output, result], **options)
    assert second.status == "completed"
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.total_tokens - 1
    # The same without sending everything again.
    third = openai_client.responses.create(input=[result], previous_response_id=first.id, **options)
    assert third.output_text == second.output_text
    assert third.usage.input_tokens == second.usage.input_tokens


def test_demanded_tools(openai_client):
    named = {"type": "function", "name": "write"}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [named]}
    for choice in ("required", named, allowed):
        answer = ask(openai_client, "Hello!", tools=[WRITE], tool_choice=choice, max_output_tokens=300)
        assert answer.output[-1].name == "write", choice


def test_custom_and_namespaced_tools(openai_client):
    tools = [
        {"type": "custom", "name": "note", "description": "Takes a note."},
        {"type": "namespace", "name": "files", "description": "Files.", "tools": [WRITE]},
        {"type": "web_search"},
    ]
    choice = {"type": "custom", "name": "note"}
    answer = ask(openai_client, "Hello!", tools=tools, tool_choice=choice, max_output_tokens=60)
    call = answer.output[-1]
    assert (call.type, call.name) == ("custom_tool_call", "note") and isinstance(call.input, str)
    choice = {"type": "function", "name": "write", "namespace": "files"}
    answer = openai_client.responses.create(
        model=MODEL, input="Hello!", tools=tools, max_output_tokens=60, extra_body={"tool_choice": choice}
    )
    call = answer.output[-1]
    assert (call.type, call.name, call.namespace) == ("function_call", "write", "files")


def test_a_custom_tool_with_a_grammar(openai_client):
    def demand(syntax, definition):
        note = {"type": "custom", "name": "note", "format": {"type": "grammar", "syntax": syntax, "definition": definition}}
        choice = {"type": "custom", "name": "note"}
        return ask(openai_client, "Hello!", tools=[note], tool_choice=choice, max_output_tokens=200).output[-1].input

    assert re.fullmatch(r"note [a-z]{1,8}: \d\d", demand("regex", r"note [a-z]{1,8}: \d\d"))
    lines = 'start: line~1..3 "."\nline: WORD LF\nWORD: /[a-z]{1,5}/\n%import common.LF\n'
    assert re.fullmatch(r"([a-z]{1,5}\n){1,3}\.", demand("lark", lines))
    with pytest.raises(openai.BadRequestError) as error:
        demand("lark", "start: missing")
    assert error.value.param == "tools[0].format.definition"


def test_structured_output(openai_client):
    answer = openai_client.responses.parse(
        model=MODEL, input="Ann is 30.", text_format=Person, max_output_tokens=500, reasoning={"effort": "none"}
    )
    if answer.status == "completed":
        assert isinstance(answer.output_parsed, Person)
    else:
        # A string without an end; what there is of it is JSON so far.
        assert answer.output_text.startswith("{")


def test_strict_tool(openai_client):
    tool = openai.pydantic_function_tool(Person)["function"]
    tools = [{"type": "function", **tool}]
    answer = ask(openai_client, "Ann is 30.", tools=tools, tool_choice="required", max_output_tokens=500)
    call = answer.output[-1]
    assert call.name == "Person"
    if call.status == "completed":
        assert set(json.loads(call.arguments)) == {"name", "is_adult"}


def test_refused_schema(openai_client):
    schema = {"type": "object", "not": {"required": ["a"]}}
    with pytest.raises(openai.BadRequestError) as error:
        ask(openai_client, "x", text={"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}})
    assert error.value.code == "unsupported_value" and error.value.param == "text.format"


def test_cut(openai_client):
    answer = ask(openai_client, "Count from 3 to 12.", max_output_tokens=3)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    events = list(ask(openai_client, "Count from 3 to 12.", max_output_tokens=3, stream=True))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output[0].status == "incomplete"


def test_logprobs(openai_client):
    include = ["message.output_text.logprobs"]
    answer = ask(openai_client, "Count from 3 to 12.", include=include, top_logprobs=2)
    part = answer.output[0].content[0]
    assert "".join(entry.token for entry in part.logprobs) == part.text
    assert all(len(entry.top_logprobs) == 2 and entry.logprob <= 0 for entry in part.logprobs)


def test_kept_responses(openai_client):
    first = ask(openai_client, "What is the capital of France?")
    assert openai_client.responses.retrieve(first.id).output_text == first.output_text
    second = ask(openai_client, "What is 7 times 8?", previous_response_id=first.id)
    items = openai_client.responses.input_items.list(second.id, order="asc", limit=1)
    # The client fetches the other pages itself.
    assert [item.role for item in items] == ["user", "assistant", "user"]
    openai_client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        openai_client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as error:
        ask(openai_client, "x", previous_response_id=first.id)
    assert error.value.code == "previous_response_not_found"
    assert ask(openai_client, "What is 7 times 8?", previous_response_id=second.id).status == "completed"
    with pytest.raises(openai.BadRequestError):
        openai_client.responses.cancel(second.id)
    unkept = ask(openai_client, "What is 7 times 8?", store=False)
    with pytest.raises(openai.NotFoundError):
        openai_client.responses.retrieve(unkept.id)


def test_count_tokens(openai_client):
    count = openai_client.responses.input_tokens.count(
        model=MODEL, input="What is 7 times 8?", reasoning={"effort": "none"}
    )
    answer = ask(openai_client, "What is 7 times 8?")
    assert count.input_tokens == answer.usage.input_tokens


def test_bad_values(openai_client):
    for options, param in [
        ({"temperature": 3}, "temperature"),
        ({"background": True}, "background"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"conversation": "conv_1"}, "conversation"),
    ]:
        with pytest.raises(openai.BadRequestError) as error:
            ask(openai_client, "x", **options)
        assert (error.value.param, error.value.type) == (param, "invalid_request_error")
    orphan = [{"type": "function_call_output", "call_id": "call_x", "output": "x"}]
    with pytest.raises(openai.BadRequestError) as error:
        ask(openai_client, orphan)
    assert error.value.param == "input[0]"


@pytest.mark.parametrize("streamed", [False, True])
def test_too_long(openai_client, streamed):
    with pytest.raises(openai.BadRequestError) as error:
        ask(openai_client, "word " * 4 * CONTEXT, stream=streamed)
    assert error.value.code == "context_length_exceeded"


def test_wrong_key(openai_client, server):
    if server.key == "none":
        pytest.skip("the server wants no key")
    with pytest.raises(openai.AuthenticationError):
        ask(openai_client.with_options(api_key="wrong"), "x")


def test_closed_stream_is_cancelled(openai_client, server):
    cancelled = 'ds4_requests_total{api="responses",outcome="cancelled"}'
    before = server.metric(cancelled)
    options = {"temperature": 1, "stream": True, "extra_body": {"seed": 3, "logit_bias": {"1": -100}}}
    stream = ask(openai_client, "Tell me a story.", **options)
    for event in stream:
        if event.type == "response.output_text.delta":
            break
    stream.close()
    server.wait_for(cancelled, before + 1)
    assert ask(openai_client, "What is 7 times 8?").output_text == "7 * 8 = 56"
