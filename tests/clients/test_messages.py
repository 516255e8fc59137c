"""POST /v1/messages and count_tokens with the official Anthropic client."""

import asyncio

import anthropic
import pytest
from pydantic import BaseModel

from conftest import CONTEXT, MODEL

NO_THINKING = {"type": "disabled"}
WRITE = {
    "name": "write",
    "description": "Write a file.",
    "input_schema": {
        "type": "object",
        "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
        "required": ["path", "content"],
    },
}


class City(BaseModel):
    name: str
    inhabitants: int


def options(text, thinking=NO_THINKING, sampling=None, **more):
    """Arguments of a request. The client has none for sampling any more; the server still has the fields."""
    return {
        "model": MODEL,
        "max_tokens": 400,
        "messages": [{"role": "user", "content": text}],
        "thinking": thinking,
        "extra_body": sampling or {"temperature": 0},
        **more,
    }


def ask(client, text, **more):
    return client.messages.create(**options(text, **more))


def test_answer(anthropic_client):
    answer = ask(anthropic_client, "What is the capital of France?")
    assert [(block.type, block.text) for block in answer.content] == [("text", "The capital of France is Paris.")]
    assert (answer.stop_reason, answer.role, answer.model) == ("end_turn", "assistant", MODEL)


def test_stream(anthropic_client):
    names = []
    text = ""
    for event in anthropic_client.messages.create(**options("What is the capital of France?"), stream=True):
        names.append(event.type)
        if event.type == "content_block_delta":
            text += event.delta.text
    assert text == "The capital of France is Paris."
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_stream_helper(anthropic_client):
    with anthropic_client.messages.stream(**options("Reverse the word garden.")) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == message.content[0].text == "nedrag"
    assert message.usage.output_tokens > 0


@pytest.mark.parametrize("streamed", [False, True])
def test_thinking(anthropic_client, streamed):
    # Without a seed of its own an answer is drawn anew; the sum comes out right nearly always.
    request = options("What is 47 + 38?", thinking={"type": "adaptive"}, sampling={"seed": 1})
    if streamed:
        with anthropic_client.messages.stream(**request) as stream:
            message = stream.get_final_message()
    else:
        message = anthropic_client.messages.create(**request)
    thinking, text = message.content
    assert (thinking.type, text.type) == ("thinking", "text")
    assert thinking.thinking and thinking.signature and "47 + 38 = 85" in text.text

    # Sent back as it is, the turn is in the cache to its last token.
    usage = message.usage
    history = [*request["messages"], {"role": "assistant", "content": message.content}]
    request["messages"] = [*history, {"role": "user", "content": "What is 7 times 8?"}]
    second = anthropic_client.messages.create(**request)
    told = usage.input_tokens + usage.cache_read_input_tokens + usage.output_tokens
    assert second.usage.cache_read_input_tokens >= told - 1


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_round_trip(anthropic_client, streamed):
    request = options("create hello.txt containing hi", tools=[WRITE])
    if streamed:
        with anthropic_client.messages.stream(**request) as stream:
            first = stream.get_final_message()
    else:
        first = anthropic_client.messages.create(**request)
    assert first.stop_reason == "tool_use"
    call = next(block for block in first.content if block.type == "tool_use")
    assert (call.name, call.input) == ("write", {"path": "hello.txt", "content": "hi"})
    request["messages"] += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "ok"}]},
    ]
    second = anthropic_client.messages.create(**request)
    assert second.stop_reason == "end_turn"
    told = first.usage.input_tokens + first.usage.cache_read_input_tokens + first.usage.output_tokens
    assert second.usage.cache_read_input_tokens >= told - 1


def test_demanded_tool(anthropic_client):
    answer = ask(anthropic_client, "Hello!", tools=[WRITE], tool_choice={"type": "tool", "name": "write"})
    assert answer.content[-1].name == "write"


def test_prefill(anthropic_client):
    request = options("What is the capital of France?")
    request["messages"].append({"role": "assistant", "content": "The capital of France"})
    assert anthropic_client.messages.create(**request).content[0].text == " is Paris."


def test_stop_sequence(anthropic_client):
    answer = ask(anthropic_client, "Count from 3 to 12.", stop_sequences=[", 7"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", ", 7")
    assert answer.content[0].text == "3, 4, 5, 6"


def test_max_tokens(anthropic_client):
    answer = ask(anthropic_client, "Count from 3 to 12.", max_tokens=3)
    assert (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", 3)


def test_count_tokens(anthropic_client):
    request = options("What is the capital of France?", system="Be brief.", tools=[WRITE])
    usage = anthropic_client.messages.create(**request).usage
    del request["max_tokens"]
    counted = anthropic_client.messages.count_tokens(**request)
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_beta_path(anthropic_client):
    """Clients of betas add ?beta=true and headers."""
    answer = anthropic_client.beta.messages.create(**options("What is 7 times 8?"), betas=["interleaved-thinking"])
    assert answer.content[0].text == "7 * 8 = 56"


def test_parse(anthropic_client):
    """The client makes a schema of the class; the server holds the answer to it."""
    message = anthropic_client.messages.parse(
        model=MODEL,
        max_tokens=400,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        thinking=NO_THINKING,
        output_format=City,
    )
    assert isinstance(message.parsed_output, City)


def test_strict_tool(anthropic_client):
    strict = {**WRITE, "strict": True}
    strict["input_schema"] = {**WRITE["input_schema"], "additionalProperties": False}
    answer = ask(anthropic_client, "Hello!", tools=[strict], tool_choice={"type": "any"})
    assert answer.stop_reason == "max_tokens" or set(answer.content[-1].input) == {"path", "content"}


def test_tool_runner(anthropic_client):
    """The client's own loop: it calls the function and sends the result back until there are no more calls."""
    written = {}

    @anthropic.beta_tool
    def write(path: str, content: str) -> str:
        """Write a file."""
        written[path] = content
        return "ok"

    request = options("create hello.txt containing hi")
    final = anthropic_client.beta.messages.tool_runner(**request, tools=[write]).until_done()
    assert written == {"hello.txt": "hi"}
    assert final.stop_reason == "end_turn"


def test_async_client(server):
    """Two at a time, each with the answer that it would get alone."""

    async def both():
        async with anthropic.AsyncAnthropic(base_url=server.url, api_key=server.key, max_retries=0) as client:
            questions = ("What is 7 times 8?", "Reverse the word garden.")
            return await asyncio.gather(*(client.messages.create(**options(question)) for question in questions))

    assert [message.content[0].text for message in asyncio.run(both())] == ["7 * 8 = 56", "nedrag"]


def test_bad_value(anthropic_client):
    with pytest.raises(anthropic.BadRequestError) as error:
        ask(anthropic_client, "x", sampling={"temperature": 3})
    assert error.value.body["error"]["type"] == "invalid_request_error"
    assert error.value.request_id


def test_too_long(anthropic_client):
    with pytest.raises(anthropic.BadRequestError, match=rf"prompt is too long: \d+ tokens > {CONTEXT} maximum"):
        ask(anthropic_client, "word " * 4 * CONTEXT)


def test_wrong_key(anthropic_client, server):
    if server.key == "none":
        pytest.skip("the server wants no key")
    with pytest.raises(anthropic.AuthenticationError):
        ask(anthropic_client.with_options(api_key="wrong"), "x")


def test_unknown_path(anthropic_client):
    with pytest.raises(anthropic.NotFoundError):
        anthropic_client.messages.batches.list()


def test_closed_stream_is_cancelled(anthropic_client, server):
    cancelled = 'ds4_requests_total{api="messages",outcome="cancelled"}'
    before = server.metric(cancelled)
    request = options("Tell me a story.", sampling={"temperature": 1, "seed": 3})
    with anthropic_client.messages.stream(**request) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                break
    server.wait_for(cancelled, before + 1)
    assert ask(anthropic_client, "What is 7 times 8?").content[0].text == "7 * 8 = 56"
