#!/usr/bin/env python3
"""Lets many clients at a server with the demo model, some of which break off, and says what became of it.

    tests/clients/soak.py [--clients 200] [--seconds 120] [--ds4 PROGRAM]

Every client sends requests from a list, streamed or not, some held to a schema, some with tools, each with a seed, and a third of them
hang up at a random moment. Each answer that is read to its end must be the one that the same request got alone. At the end
nothing may be running, memory must not have grown since a quarter of the time, and the next request must be answered.
Exits with 1 if any of it is not so. Needs Python 3.10 and nothing else; builds ds4 unless --ds4 names it.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True

from building import build, target_folder

# How much more memory than after a quarter of the time is growth.
GROWTH = 0.10
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "strict": True, "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 10}}, "required": ["city"]}}}]


def requests():
    """Bodies, with what they have in common in the prompt and without."""
    found = []
    for seed, words in enumerate(["the river", "a fox and the moon", "rain", "a letter", "the old house", "Mia"]):
        messages = [{"role": "system", "content": "You tell short stories. " * (seed % 3)}, {"role": "user", "content": f"Tell me about {words}."}]
        plain = {"messages": messages, "max_tokens": 60, "seed": seed, "thinking": {"type": "disabled"}}
        found.append(plain)
        found.append({**plain, "stream": True, "max_tokens": 120})
        found.append({**plain, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}})
        found.append({**plain, "stream": True, "tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False})
    return found


def answer_of(body, text):
    """What the model said, without ids, times and how it was cut into pieces; None if it is not whole."""
    if not body.get("stream"):
        choice = json.loads(text)["choices"][0]
        message = choice["message"]
        calls = [call["function"] for call in message.get("tool_calls") or []]
        return [message.get("content") or "", calls, choice["finish_reason"]]
    content, calls, reason = "", [], None
    frames = [frame[len("data: "):] for frame in text.split("\n\n") if frame.startswith("data: ")]
    if not frames or frames[-1] != "[DONE]":
        return None
    for frame in frames[:-1]:
        for choice in json.loads(frame)["choices"]:
            delta = choice["delta"]
            content += delta.get("content") or ""
            for call in delta.get("tool_calls") or []:
                function = call["function"]
                if "name" in function:
                    calls.append({"name": function["name"], "arguments": ""})
                calls[-1]["arguments"] += function.get("arguments") or ""
            reason = choice.get("finish_reason") or reason
    return [content, calls, reason]


async def exchange(port, body, hang_up=None):
    """Status and body of the answer; None after hanging up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        if hang_up is not None:
            await asyncio.sleep(hang_up)
            return None
        raw = await reader.read(-1)
    finally:
        writer.transport.abort() if hang_up is not None else writer.close()
    head, _, rest = raw.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        rest = unchunked(rest)
    return int(head.split(b" ", 2)[1]), rest.decode()


def unchunked(data):
    out = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        out, data = out + data[:length], data[length + 2:]
    return out


async def metric(port, name):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    text = (await reader.read(-1)).decode()
    writer.close()
    return next((float(line.split(" ")[1]) for line in text.splitlines() if line.startswith(name + " ")), None)


async def soak(port, clients, seconds):
    bodies = requests()
    alone = []
    for body in bodies:
        status, text = await exchange(port, body)
        assert status == 200, text
        alone.append(answer_of(body, text))
        assert alone[-1] is not None
    counts = {"whole and as alone": 0, "hung up": 0, "sent away (429)": 0, "WRONG": 0}
    until = time.monotonic() + seconds
    memory = []

    async def client(number):
        choose = random.Random(number)
        while time.monotonic() < until:
            index = choose.randrange(len(bodies))
            hang_up = choose.random() * 2 if choose.random() < 1 / 3 else None
            got = await exchange(port, bodies[index], hang_up)
            if got is None:
                counts["hung up"] += 1
            elif got[0] == 429:
                counts["sent away (429)"] += 1
                await asyncio.sleep(0.5)
            elif got[0] == 200 and answer_of(bodies[index], got[1]) == alone[index]:
                counts["whole and as alone"] += 1
            else:
                counts["WRONG"] += 1
                print(f"request {index}: {got[0]} {got[1][:300]}", file=sys.stderr)

    async def watch():
        while time.monotonic() < until:
            memory.append(await metric(port, "ds4_resident_memory_bytes"))
            await asyncio.sleep(seconds / 40)

    await asyncio.gather(watch(), *(client(number) for number in range(clients)))
    for _ in range(600):
        running = await metric(port, "ds4_requests_in_flight")
        if running == 0:
            break
        await asyncio.sleep(0.1)
    status, text = await exchange(port, bodies[0])
    next_works = status == 200 and answer_of(bodies[0], text) == alone[0]
    for name, count in counts.items():
        print(f"{name:20} {count}")
    print(f"{'still running':20} {running:.0f}")
    print(f"{'next request':20} {'as alone' if next_works else 'WRONG'}")
    flat = True
    if memory and memory[0]:
        quarter, last = max(memory[: max(1, len(memory) // 4)]), max(memory[-3:])
        flat = last <= quarter * (1 + GROWTH)
        print(f"{'memory':20} {quarter / 2**20:.0f} MiB after a quarter, {last / 2**20:.0f} MiB at the end")
    return counts["WRONG"] == 0 and counts["whole and as alone"] > 0 and running == 0 and next_works and flat


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--ds4", type=Path, help="the program to start instead of building one")
    args = parser.parse_args()
    if not args.ds4:
        build("--package", "ds4")
    program = args.ds4 or target_folder() / "debug" / "ds4"
    command = [program, "serve", "--port", "0", "--parallel", "8", "--queue", str(args.clients)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in server.stderr if "serving " in line)
        port = int(line.split("http://127.0.0.1:")[1].split()[0].split("/")[0])
        good = asyncio.run(soak(port, args.clients, args.seconds))
    finally:
        server.terminate()
        server.wait()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
