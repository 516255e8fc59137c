#!/usr/bin/env python3
"""Many conversations at once under a small budget of memory: no leak, no deadlock, and what a model of the cache predicts is reused.

    bench/sessions/load.py PATH_TO_DS4 [-m MODEL.gguf] [--conversations 64] [--turns 30] [--minutes M] [serve options …]

Conversations share four system prompts; every fifth forks from a neighbour's history in its middle; every seventh turn hangs up after the
first words. With --minutes, each that ends is followed by a new one until the time is over. Prints the memory of the server by quarters of the run, and the tokens that were not computed again beside what could have been:
of a turn, everything up to the end of the conversation's last whole turn; of a first turn, the system prompt once somebody has used it twice.
What was evicted from memory comes back from disk, so all of it is expected. Exits with 1 if a turn fails, if less than 90 % of the
expected tokens were reused, or if memory grew by more than 10 % from the second quarter of the run to the last.
"""

import argparse
import http.client
import json
import random
import re
import subprocess
import sys
import tempfile
import threading
import time


class Server:
    def __init__(self, args, folder):
        command = [args.ds4, "serve", "--port", "0", "--parallel", "8", "--queue", "512", "--think", "off", "--kv-ram", args.kv_ram,
                   "--kv-dir", folder, "--kv-disk", "4G"]
        command += ["-m", args.model] if args.model else []
        self.process = subprocess.Popen(command + args.options, stderr=subprocess.PIPE, text=True)
        self.warnings = []
        for line in self.process.stderr:
            found = re.search(r"http://[^:]+:(\d+)", line)
            if found:
                self.port = int(found[1])
                break
        else:
            raise SystemExit("the server did not start")
        threading.Thread(target=lambda: self.warnings.extend(self.process.stderr), daemon=True).start()

    def memory(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

    def metric(self, name):
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name)}

    def ask(self, messages, session, hang_up):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        body = {"messages": messages, "max_tokens": 12, "temperature": 1.0, "seed": 7, "stream": hang_up}
        connection.request("POST", "/v1/chat/completions", json.dumps(body),
                           {"content-type": "application/json", "x-session-id": session})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(response.read().decode())
        if hang_up:
            response.readline()
            connection.sock.close() if connection.sock else response.close()
            return None
        answer = json.loads(response.read())
        connection.close()
        return answer


def words(chance, count):
    return " ".join(chance.choice(WORDS) for _ in range(count))


WORDS = "river stone cloud lamp paper green seven quick under window table bread north letter music summer".split()


class Load:
    def __init__(self, server, args):
        self.server, self.args = server, args
        self.lock = threading.Lock()
        self.histories = {}
        self.reused, self.expected, self.turns, self.failures = 0, 0, 0, []

    def run(self, number):
        end = time.monotonic() + 60 * self.args.minutes
        self.conversation(number, 0)
        generation = 1
        while time.monotonic() < end:
            self.conversation(number, generation)
            generation += 1

    def conversation(self, number, generation):
        chance = random.Random(number + 1_000_000 * generation)
        system = words(random.Random(1000 + number % 4), 150)
        messages, known = [{"role": "system", "content": system}], 0
        for turn in range(self.args.turns):
            with self.lock:
                neighbour = self.histories.get(number - 1)
            if number % 5 == 4 and turn == self.args.turns // 2 and neighbour:
                # What the neighbour said is known up to there, if its system prompt was the same; nothing is expected of the fork.
                messages, known = list(neighbour), 0
            messages.append({"role": "user", "content": words(chance, 12)})
            hang_up = chance.random() < 1 / 7
            try:
                answer = self.server.ask(messages, f"conversation-{number}-{generation}", hang_up)
            except Exception as error:  # noqa: BLE001: whatever it is, it is counted
                with self.lock:
                    self.failures.append(f"{number}/{turn}: {error}")
                return
            if answer is None:
                messages.pop()
                continue
            usage = answer["usage"]
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
            with self.lock:
                self.turns += 1
                self.expected += known
                self.reused += min(cached, known) if known else 0
                self.histories[number] = list(messages) + [{"role": "assistant", "content": answer["choices"][0]["message"]["content"] or ""}]
            messages = list(self.histories[number])
            # The end of the answer is a state of its own; its last token is computed with the next turn.
            known = usage["prompt_tokens"] + usage["completion_tokens"] - 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ds4")
    parser.add_argument("-m", "--model")
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=0, help="how long new conversations are begun")
    parser.add_argument("--kv-ram", default="64M", help="memory for states")
    args, args.options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(args, folder)
        load = Load(server, args)
        threads = [threading.Thread(target=load.run, args=(n,), daemon=True) for n in range(args.conversations)]
        begin, memory = time.perf_counter(), []
        [thread.start() for thread in threads]
        while any(thread.is_alive() for thread in threads):
            memory.append(server.memory())
            time.sleep(0.5)
        seconds = time.perf_counter() - begin
        kv = server.metric("ds4_kv")
        server.process.terminate()
        server.process.wait()
        quarters = [max(memory[len(memory) * q // 4:len(memory) * (q + 1) // 4] or [0]) for q in range(4)]
        rate = load.reused / max(load.expected, 1)
        print(f"{load.turns} whole turns of {args.conversations} conversations in {seconds:.0f} s; failed: {len(load.failures)}")
        print("anonymous memory at most, by quarters of the run: " + ", ".join(f"{kb / 1024:.0f} MiB" for kb in quarters))
        print(f"tokens reused: {load.reused} of {load.expected} expected, {100 * rate:.1f} %")
        for name, value in sorted(kv.items()):
            print(f"  {name} {value:.0f}")
        for failure in load.failures[:5]:
            print("  " + failure)
        for warning in server.warnings[:5]:
            print("  " + warning.rstrip())
        grown = quarters[3] > 1.1 * quarters[1]
        sys.exit(1 if load.failures or rate < 0.9 or grown else 0)


if __name__ == "__main__":
    main()
