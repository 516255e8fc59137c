#!/usr/bin/env python3
"""A server with a KV cache on disk is killed at random moments: what it answers after that is what it would have answered without.

    tests/sessions/kill.py PATH_TO_DS4 [-m MODEL.gguf] [--rounds 30] [--seed 1]

Conversations grow turn by turn at temperature 1 with fixed seeds. Their answers are first taken from a server without a cache, one at a
time. Then a server with a cache is killed (SIGKILL) in the middle of several of them, again and again, on the same folder: after each
kill `ds4 kv verify` has to find nothing, and the next server has to answer as the first did, byte for byte. Every third round a second
server reads the folder of the first meanwhile, and has to answer the same.

As root on Linux, a folder on a full and on a read-only file system follow: answers stay the same, and the messages are printed.
"""

import argparse
import concurrent.futures
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

CONVERSATIONS, TURNS = 6, 4
WORDS = "river stone cloud lamp paper green seven quick under window table bread north letter music summer".split()


class Server:
    def __init__(self, args, *options):
        command = [args.ds4, "serve", "--port", "0", "--think", "off", *options]
        if "--parallel" not in options:
            command += ["--parallel", "4"]
        command += ["-m", args.model] if args.model else []
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.said = []
        for line in self.process.stderr:
            self.said.append(line.rstrip())
            found = re.search(r"http://[^:]+:(\d+)", line)
            if found:
                self.port = int(found[1])
                break
        else:
            raise SystemExit("the server did not start: " + "\n".join(self.said))
        threading.Thread(target=lambda: self.said.extend(line.rstrip() for line in self.process.stderr), daemon=True).start()

    def ask(self, messages, seed):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        body = {"messages": messages, "max_tokens": 24, "temperature": 1.0, "seed": seed}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise RuntimeError(text.decode())
        return json.loads(text)["choices"][0]["message"]["content"]

    def metric(self, name):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait()


def conversation(number):
    chance = random.Random(number)
    words = lambda count: " ".join(chance.choice(WORDS) for _ in range(count))
    system = " ".join(random.Random(1000 + number % 2).choice(WORDS) for _ in range(160))
    return system, [words(40) for _ in range(TURNS)]


def talk(server, number):
    """All answers of a conversation."""
    system, questions = conversation(number)
    messages, answers = [{"role": "system", "content": system}], []
    for turn, question in enumerate(questions):
        messages.append({"role": "user", "content": question})
        answers.append(server.ask(messages, 100 * number + turn))
        messages.append({"role": "assistant", "content": answers[-1]})
    return answers


def check(server, expected, what):
    for number, answers in enumerate(expected):
        given = talk(server, number)
        if given != answers:
            raise SystemExit(f"{what}: conversation {number} answered {given} instead of {answers}")


def kill_rounds(args, expected, folder):
    chance = random.Random(args.seed)
    kv = ["--kv-dir", folder, "--kv-disk", "1G", "--kv-ram", "16M"]
    from_disk = 0
    for number in range(args.rounds):
        server = Server(args, *kv)
        others = [Server(args, *kv)] if number % 3 == 2 else []
        if others and not any("only reads" in line for line in others[0].said):
            raise SystemExit(f"the second server on the folder did not say so: {others[0].said}")
        with concurrent.futures.ThreadPoolExecutor(CONVERSATIONS) as pool:
            talks = {pool.submit(talk, s, n): n for s in [server, *others] for n in range(CONVERSATIONS)}
            time.sleep(chance.uniform(0.05, 1.5))
            for s in [server, *others]:
                s.end(signal.SIGKILL)
            whole = 0
            for done, n in talks.items():
                if done.exception() is None:
                    whole += 1
                    if done.result() != expected[n]:
                        raise SystemExit(f"round {number}: conversation {n} answered {done.result()}")
        verify = subprocess.run([args.ds4, "kv", "verify", "--kv-dir", folder], capture_output=True, text=True)
        if verify.returncode != 0:
            raise SystemExit(f"round {number}: {verify.stdout}{verify.stderr}")
        server = Server(args, *kv)
        check(server, expected, f"round {number}")
        from_disk += server.metric('ds4_kv_lookups_total{found="disk"')
        server.end()
        warnings = [line for line in server.said if "damaged" in line or "ignores" in line or "defect" in line]
        if warnings:
            raise SystemExit(f"round {number}: {warnings}")
        print(f"round {number}: {whole} of {len(talks)} conversations were over when it was killed; all answered alike after it", flush=True)
    print(f"{args.rounds} kills, nothing damaged, {from_disk:.0f} prompts continued from disk")


def bad_disks(args, expected):
    """A file system that is full, and one that cannot be written."""
    with tempfile.TemporaryDirectory() as place:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", place], capture_output=True).returncode != 0:
            print("no file systems could be mounted: full and read-only disks were not tried")
            return
        try:
            kv = ["--kv-dir", place + "/kv", "--kv-disk", "1G", "--kv-ram", "16M"]
            for what in ["full disk", "read-only disk"]:
                server = Server(args, *kv)
                check(server, expected, what)
                check(server, expected, what)
                server.end()
                print(f"{what}: all answered alike; it said:")
                [print("    " + line) for line in server.said if "KV cache" in line or "kept" in line]
                verify = subprocess.run([args.ds4, "kv", "verify", "--kv-dir", place + "/kv"], capture_output=True, text=True)
                print("    ds4 kv verify: " + (verify.stdout + verify.stderr).strip().replace("\n", " | "))
                if verify.returncode != 0:
                    raise SystemExit(f"{what}: damaged")
                subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        finally:
            subprocess.run(["umount", place], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ds4")
    parser.add_argument("-m", "--model")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    server = Server(args, "--kv-disk", "0", "--parallel", "1")
    expected = [talk(server, number) for number in range(CONVERSATIONS)]
    server.end()
    with tempfile.TemporaryDirectory() as folder:
        kill_rounds(args, expected, folder)
    if os.geteuid() == 0:
        bad_disks(args, expected)


if __name__ == "__main__":
    main()
