#!/usr/bin/env python3
"""What several clients at once do to each other, measured over HTTP with nothing but the standard library.

    bench/sessions/run.py PATH_TO_DS4 [-m MODEL.gguf] [serve options …]

Starts `ds4 serve` on a free port and prints

  * tokens per second of one stream, and of eight together;
  * the gaps between the tokens of a stream while another client's long prompt is computed, beside the usual gap and the bound
    max(3 x usual, 250 ms);
  * the speed of a stream while another client's states are written to the disk, beside its speed without a disk;
  * the time to the first token of a long prompt: new, from memory, and from disk after a restart.
"""

import argparse
import http.client
import json
import re
import statistics
import subprocess
import tempfile
import threading
import time


class Server:
    def __init__(self, args, *more):
        command = [args.ds4, "serve", "--port", "0", "--parallel", "8", "--think", "off"]
        if args.model:
            command += ["-m", args.model]
        self.process = subprocess.Popen(command + args.options + list(more), stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            found = re.search(r"http://[^:]+:(\d+)", line)
            if found:
                self.port = int(found[1])
                break
        else:
            raise SystemExit("the server did not start")
        threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def stream(self, prompt, tokens, session="bench"):
        """Times of the tokens of an answer, from the request on, and its usage."""
        body = {"prompt": prompt, "max_tokens": tokens, "stream": True, "temperature": 1.0, "seed": 7,
                "logit_bias": {"1": -100}, "stream_options": {"include_usage": True}}
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        begin = time.perf_counter()
        connection.request("POST", "/v1/completions", json.dumps(body), {"x-session-id": session})
        response = connection.getresponse()
        if response.status != 200:
            raise SystemExit(response.read().decode())
        times, usage = [], {}
        for line in response:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                usage = event.get("usage") or usage
                if event.get("choices"):
                    times.append(time.perf_counter() - begin)
        connection.close()
        return times, usage


def speed(times):
    return (len(times) - 1) / (times[-1] - times[0])


def words(seed, count):
    """Text that no other seed begins with: about a token a word or two."""
    return " ".join(f"{(seed * 7919 + n * n * 31 + n) % 9973}" for n in range(count))


def together(server, count, tokens):
    results = [None] * count
    barrier = threading.Barrier(count)

    def client(number):
        barrier.wait()
        results[number] = server.stream(words(number + 1, 12), tokens, f"client-{number}")[0]

    threads = [threading.Thread(target=client, args=(number,)) for number in range(count)]
    begin = time.perf_counter()
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return sum(map(len, results)) / (time.perf_counter() - begin)


def gaps_of(times):
    return [after - before for before, after in zip(times, times[1:])]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ds4")
    parser.add_argument("-m", "--model")
    parser.add_argument("--tokens", type=int, default=400, help="tokens of an answer")
    parser.add_argument("--long", type=int, default=12000, help="numbers in the long prompt")
    args, args.options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder, Server(args, "--kv-disk", "0") as server:
        server.stream(words(99, 12), 8)
        one = statistics.median(speed(server.stream(words(50 + n, 12), args.tokens)[0]) for n in range(3))
        eight = together(server, 8, args.tokens)
        print(f"one stream {one:.0f} tokens/s, eight together {eight:.0f} ({eight / one:.1f} times)")

        usual = gaps_of(server.stream(words(60, 12), args.tokens)[0])
        done, long_usage = threading.Event(), {}

        def other():
            long_usage.update(server.stream(words(61, args.long), 2, "other")[1])
            done.set()

        thread = threading.Thread(target=other)
        begun = time.perf_counter()
        worst, streams = 0.0, 0
        thread.start()
        while not done.is_set():
            worst = max([worst] + gaps_of(server.stream(words(70 + streams, 12), args.tokens)[0]))
            streams += 1
        thread.join()
        took = time.perf_counter() - begun
        normal = statistics.median(usual)
        bound = max(3 * normal, 0.25)
        print(f"usual gap {normal * 1e3:.1f} ms (worst {max(usual) * 1e3:.1f}); while {long_usage['prompt_tokens']} tokens are "
              f"prefilled in {took:.1f} s: worst {worst * 1e3:.1f} ms, bound {bound * 1e3:.0f} ms")

    with tempfile.TemporaryDirectory() as folder:
        disk = ["--kv-dir", folder, "--kv-disk", "4G"]
        speeds = {"with": [], "without": []}
        for kind, options in [("without", ["--kv-disk", "0"]), ("with", disk)] * 2:
            with Server(args, *options) as server:
                server.stream(words(99, 12), 8)
                stop = threading.Event()

                def writer():
                    number = 0
                    while not stop.is_set():
                        server.stream(words(1000 + number, 100), 4, f"writer-{number % 3}")
                        number += 1
                        time.sleep(0.2)

                thread = threading.Thread(target=writer)
                thread.start()
                speeds[kind] += [speed(server.stream(words(200 + n, 12), args.tokens)[0]) for n in range(4)]
                stop.set()
                thread.join()
        with_disk, without = (statistics.median(speeds[kind]) for kind in ("with", "without"))
        print(f"a stream beside a client whose states are kept: {without:.0f} tokens/s in memory, {with_disk:.0f} on disk as well "
              f"({100 * (1 - with_disk / without):+.1f} % slower)")

        prompt = words(300, args.long)
        with Server(args, *disk) as server:
            server.stream(words(99, 12), 8)
            new, usage = server.stream(prompt, 2)
            again, usage_again = server.stream(prompt, 2)
        with Server(args, *disk) as server:
            server.stream(words(99, 12), 8)
            back, usage_back = server.stream(prompt, 2)
        cached = [u.get("prompt_tokens_details", {}).get("cached_tokens", 0) for u in (usage, usage_again, usage_back)]
        print(f"first token of {usage['prompt_tokens']} tokens: new {new[0]:.3f} s, from memory {again[0]:.3f} s "
              f"({cached[1]} reused), from disk after a restart {back[0]:.3f} s ({cached[2]} reused)")


if __name__ == "__main__":
    main()
